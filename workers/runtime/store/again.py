"""Read jobs that ended as what they were asked to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

from models.lifecycle import Job
from workers.runtime.database import Raw
from workers.runtime.store.tables import JobTable, job_table


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that ended: its row as JSON text by column, its state and the one before."""

    id: UUID
    row: str
    status: str
    ended_in: str | None
    priority: int


@cache
def _ended_sql(t: JobTable) -> str:
    c = t.column
    stages = ", ".join(f"'{step.stage}'" for step in t.lifecycle.steps)
    return f"""
        SELECT j.{c["id"]}, to_jsonb(j)::text, j.{c["status"]}::text,
               (SELECT h.old_state FROM runtime.transitions AS h
                 WHERE h.job_id = j.{c["id"]} AND h.version_to = j.{c["version"]} AND h.stage IN ({stages}) LIMIT 1),
               j.{c["priority"]}
          FROM {t.name} AS j WHERE j.{c["id"]} = ANY (%(ids)s) AND j.{c["completed_at"]} IS NOT NULL"""


async def ended(conn: Raw, model: type[Job], ids: Sequence[UUID]) -> list[Ended]:
    """Return those of these jobs that have ended. Their rows are read as text: one that is odd spoils no other."""
    cursor = await conn.execute(_ended_sql(job_table(model)), {"ids": list(ids)})
    rows: list[Any] = await cursor.fetchall()
    return [Ended(*row) for row in rows]
