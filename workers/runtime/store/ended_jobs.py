"""Read jobs that ended, with the row that each was enqueued as."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

from models.lifecycle import Job
from workers.runtime.database import Raw
from workers.runtime.store.tables import JobTable, job_table


@dataclass(frozen=True, slots=True)
class EndedJob:
    """A job that ended: its row as JSON text by column, its state, and the state in which it ended."""

    id: UUID
    row: str
    status: str
    ended_in: str | None
    priority: int


@cache
def _ended_jobs_sql(t: JobTable) -> str:
    c = t.column
    stages = ", ".join(f"'{step.stage}'" for step in t.lifecycle.steps)
    return f"""
        SELECT j.{c["id"]}, to_jsonb(j)::text, j.{c["status"]}::text,
               (SELECT h.old_state FROM runtime.transitions AS h
                 WHERE h.job_id = j.{c["id"]} AND h.version_to = j.{c["version"]} AND h.stage IN ({stages}) LIMIT 1),
               j.{c["priority"]}
          FROM {t.name} AS j WHERE j.{c["id"]} = ANY (%(ids)s) AND j.{c["completed_at"]} IS NOT NULL"""


async def read_ended_jobs(conn: Raw, model: type[Job], ids: Sequence[UUID]) -> list[EndedJob]:
    """Return those of these jobs that have ended. Each row is read as text, so that a bad row fails alone."""
    cursor = await conn.execute(_ended_jobs_sql(job_table(model)), {"ids": list(ids)})
    rows: list[Any] = await cursor.fetchall()
    return [EndedJob(*row) for row in rows]
