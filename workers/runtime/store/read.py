"""What people ask of jobs: lists, one job, its history. Reads only; never in a dispatcher's tick."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import AsyncServerCursor
from psycopg.rows import class_row, dict_row, scalar_row

from models.lifecycle import JOB_ATTRIBUTES, Job
from workers.runtime.database import Raw
from workers.runtime.store.states import states_named
from workers.runtime.store.tables import job_table


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """One row of ``runtime.jobs``: any job of any table, with why it waits."""

    id: UUID
    stage: str
    status: str
    version: int
    priority: int
    progress: int
    retry_count: int
    max_retries: int
    due_at: datetime | None
    idempotency_key: str | None
    wait_reason: str | None
    age: timedelta
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime
    lease_owner: UUID | None
    error_message: str | None
    table_name: str
    owner_id: UUID | None


_JOB = ", ".join(field.name for field in fields(JobView))


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionView:
    """One row of ``runtime.transitions``."""

    job_id: UUID
    stage: str
    old_state: str | None
    new_state: str
    version_from: int | None
    version_to: int
    changed_by: str | None
    change_reason: str | None
    change_action: str | None
    created_at: datetime
    context: dict[str, Any] | None
    ip_address: Any
    user_agent: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs: every part that is set must hold.

    ``status`` is what a person types: a group of states or a state, in any case. ``error`` is contained in the error
    message, in any case; its ``…`` stand for anything, as in the causes that ``errors`` tells.
    """

    stage: str | None = None
    status: str | None = None
    older_than: timedelta | None = None
    error: str | None = None
    ids: Sequence[UUID] | None = None


async def list_jobs(conn: Raw, wanted: JobFilter, *, limit: int, after: UUID | None = None) -> list[JobView]:
    """Return up to ``limit`` jobs, newest first; ``after`` is the last id of the page before.

    Raise UnknownStateError for a status that no table knows.
    """
    cursor = conn.cursor(row_factory=class_row(JobView))
    await cursor.execute(_jobs_sql(explained=True), await _matching(conn, wanted, limit=limit, after=after))
    return await cursor.fetchall()


async def scan_jobs(conn: Raw, wanted: JobFilter, *, page: int) -> AsyncIterator[list[JobView]]:
    """Yield all matching jobs, ``page`` at a time, newest first, as they were at the start.

    The jobs are looked up once, not once per page, and none says why it waits. The connection may be used in between.
    """
    values = await _matching(conn, wanted, limit=None, after=None)
    cursor = AsyncServerCursor(conn, "scan_jobs", row_factory=class_row(JobView), withhold=True)
    async with cursor:
        await cursor.execute(_jobs_sql(explained=False), values)
        while found := await cursor.fetchmany(page):
            yield found


def _jobs_sql(*, explained: bool) -> str:
    columns = ", ".join(
        f"NULL AS {name}" if name == "wait_reason" and not explained else name for name in JobView.__dataclass_fields__
    )
    return f"""SELECT {columns} FROM runtime.jobs
            WHERE (%(stage)s::text IS NULL OR stage = %(stage)s)
              AND (%(tables)s::text[] IS NULL OR (table_name, status) IN (
                    SELECT * FROM unnest(%(tables)s::text[], %(states)s::text[])))
              AND (%(older)s::interval IS NULL OR age > %(older)s)
              AND (%(error)s::text IS NULL OR lower(error_message) LIKE lower(%(error)s))
              AND (%(ids)s::uuid[] IS NULL OR id = ANY (%(ids)s)) AND (%(after)s::uuid IS NULL OR id < %(after)s)
            ORDER BY id DESC LIMIT %(limit)s"""


async def _matching(conn: Raw, wanted: JobFilter, *, limit: int | None, after: UUID | None) -> dict[str, Any]:
    """Return the values of :func:`_jobs_sql`; raise UnknownStateError for a status that no table knows."""
    states = None if wanted.status is None else await states_named(conn, wanted.status)
    return {
        "stage": wanted.stage,
        "tables": None if states is None else [table for table, _ in states],
        "states": None if states is None else [state for _, state in states],
        "older": wanted.older_than,
        "error": None if wanted.error is None else pattern(wanted.error),
        "ids": None if wanted.ids is None else list(wanted.ids),
        "after": after,
        "limit": limit,
    }


def pattern(error: str) -> str:
    """Return the pattern of LIKE that a part of an error message is looked for by."""
    escaped = error.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped.replace('…', '%')}%"


async def get_job(conn: Raw, job_id: UUID) -> JobView | None:
    """Return one job, or None if no table has it (any more)."""
    found = await list_jobs(conn, JobFilter(ids=[job_id]), limit=1)
    return found[0] if found else None


async def history(conn: Raw, job_id: UUID, *, table: str | None = None) -> list[TransitionView]:
    """Return a job's transitions in order; they outlive the job itself.

    ``table`` (as ``runtime.jobs`` names it) tells the job from one of another table with the same id.
    """
    cursor = conn.cursor(row_factory=class_row(TransitionView))
    await cursor.execute(
        """SELECT job_id, stage, old_state, new_state, version_from, version_to, changed_by, change_reason,
                  change_action, created_at, context, ip_address, user_agent
             FROM runtime.transitions WHERE job_id = %(id)s AND (%(table)s::text IS NULL OR stage IN (
                  SELECT name FROM runtime.stages WHERE table_name = %(table)s)) ORDER BY version_to""",
        {"id": job_id, "table": table},
    )
    return await cursor.fetchall()


async def dispatcher_seen(conn: Raw) -> timedelta | None:
    """Return how long ago the leading dispatcher last showed itself; None if none ever did."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute("SELECT now() - seen_at FROM runtime.dispatcher WHERE leader IS NOT NULL")
    seen: timedelta | None = await cursor.fetchone()
    return seen


async def known_stages(conn: Raw) -> list[str]:
    """Return the names of all stages the database knows."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute("SELECT name FROM runtime.stages ORDER BY name")
    return await cursor.fetchall()


async def own_values(conn: Raw, model: type[Job], job_id: UUID) -> dict[str, Any]:
    """Return what a job's table holds beside its lifecycle: its payload and its result, by attribute."""
    t = job_table(model)
    own = ", ".join(f'{column} AS "{name}"' for name, column in t.column.items() if name not in JOB_ATTRIBUTES)
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(f"SELECT {own} FROM {t.name} WHERE {t.column['id']} = %(id)s", {"id": job_id})
    return await cursor.fetchone() or {}


async def slots_by_queue(conn: Raw) -> dict[str, int]:
    """Return the slots of living, not draining workers on each queue that has any."""
    cursor = await conn.execute(
        """SELECT queue, sum(slots)::int FROM runtime.workers CROSS JOIN LATERAL unnest(queues) AS queue
            WHERE draining_at IS NULL AND heartbeat_at > now() - make_interval(secs => lease_seconds) GROUP BY queue"""
    )
    return dict(await cursor.fetchall())


@dataclass(frozen=True, slots=True)
class Lease:
    """Which worker process holds a job, until when, and whether that time is over."""

    worker: str
    until: datetime
    is_over: bool


async def lease_of(conn: Raw, owner: UUID) -> Lease | None:
    """Return the lease of all that a worker process holds; None where its row is gone."""
    cursor = conn.cursor(row_factory=class_row(Lease))
    await cursor.execute(
        """SELECT name AS worker, lease.until, lease.until < now() AS is_over FROM runtime.workers
            CROSS JOIN LATERAL (
              SELECT heartbeat_at + make_interval(secs => least(lease_seconds, 1e9)) AS until) AS lease
            WHERE id = %(id)s""",
        {"id": owner},
    )
    return await cursor.fetchone()


async def deadline_of(conn: Raw, model: type[Job], job_id: UUID) -> datetime | None:
    """Return when the run of a job is ended, if it has a deadline."""
    t = job_table(model)
    cursor = await conn.execute(
        f"""SELECT {t.column["deadline_at"]} FROM {t.name}
             WHERE {t.column["id"]} = %(id)s AND isfinite({t.column["deadline_at"]})""",
        {"id": job_id},
    )
    row = await cursor.fetchone()
    return row[0] if row else None
