"""Wake jobs that sleep until an answer is there, each under its version."""

from collections.abc import Sequence
from functools import cache
from uuid import UUID

from models.lifecycle import Job
from workers.runtime.database import Raw
from workers.runtime.store.tables import TICKETS, JobTable, job_table, tickets


@cache
def _wake_sql(t: JobTable) -> str:
    c = t.column
    ready = ", ".join(f"'{state}'" for state in sorted(t.lifecycle.ready))
    return f"""
        UPDATE {t.name} AS j SET {c["due_at"]} = NULL, {c["updated_at"]} = now()
          FROM {TICKETS}
         WHERE j.{c["id"]} = ANY (%(ids)s::uuid[]) AND j.{c["id"]} = u.id AND j.{c["version"]} = u.version
           AND j.{c["due_at"]} IS NOT NULL AND CASE WHEN j.{c["status"]} IN ({ready}) THEN true END
        RETURNING j.{c["id"]}"""


async def wake(conn: Raw, model: type[Job], runs: Sequence[tuple[UUID, int]]) -> set[UUID]:
    """Make these jobs due now if they are ready at the given version; return those that were not due before.

    A job that has moved on since, or that somebody runs, is left alone.
    """
    cursor = await conn.execute(_wake_sql(job_table(model)), tickets(sorted(runs)))
    return {row[0] for row in await cursor.fetchall()}


@cache
def _versions_sql(t: JobTable) -> str:
    c = t.column
    return f"SELECT {c['id']}, {c['version']} FROM {t.name} WHERE {c['id']} = ANY (%(ids)s::uuid[])"


async def read_versions(conn: Raw, model: type[Job], ids: Sequence[UUID]) -> dict[UUID, int]:
    """Return the versions of these jobs, of those that exist."""
    cursor = await conn.execute(_versions_sql(job_table(model)), {"ids": list(ids)})
    return dict(await cursor.fetchall())


@cache
def _traceparents_sql(t: JobTable) -> str:
    c = t.column
    return f"""SELECT DISTINCT {c["traceparent"]} FROM {t.name}
                WHERE {c["id"]} = ANY (%(ids)s::uuid[]) AND {c["traceparent"]} IS NOT NULL"""


async def read_traceparents(conn: Raw, model: type[Job], ids: Sequence[UUID]) -> list[str]:
    """Return the trace contexts of those who enqueued these jobs."""
    cursor = await conn.execute(_traceparents_sql(job_table(model)), {"ids": list(ids)})
    return [row[0] for row in await cursor.fetchall()]
