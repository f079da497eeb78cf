"""What people ask of jobs and stages: lists, one job, its history, counts. Reads only; never in a dispatcher's tick."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import AsyncServerCursor
from psycopg.rows import class_row, dict_row, scalar_row

from models.lifecycle import JOB_ATTRIBUTES, Job
from workers.runtime.database import Raw
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
class StageView:
    """One stage: what waits, runs and failed, the oldest wait, what was done in the last minute, who may run it."""

    stage: str
    ready: int
    running: int
    failed: int
    oldest_wait: timedelta | None
    done_last_minute: int
    slots: int
    limit_at_most: int | None
    paused_at: datetime | None
    paused_by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs: every part that is set must hold. ``error`` is a substring of the error message."""

    stage: str | None = None
    status: str | None = None
    older_than: timedelta | None = None
    error: str | None = None
    ids: Sequence[UUID] | None = None


async def list_jobs(conn: Raw, wanted: JobFilter, *, limit: int, after: UUID | None = None) -> list[JobView]:
    """Return up to ``limit`` jobs, newest first; ``after`` is the last id of the page before."""
    cursor = conn.cursor(row_factory=class_row(JobView))
    await cursor.execute(_jobs_sql(explained=True), _matching(wanted, limit=limit, after=after))
    return await cursor.fetchall()


async def scan_jobs(conn: Raw, wanted: JobFilter, *, page: int) -> AsyncIterator[list[JobView]]:
    """Yield all matching jobs, ``page`` at a time, newest first, as they were at the start.

    The jobs are looked up once, not once per page, and none says why it waits. The connection may be used in between.
    """
    cursor = AsyncServerCursor(conn, "scan_jobs", row_factory=class_row(JobView), withhold=True)
    async with cursor:
        await cursor.execute(_jobs_sql(explained=False), _matching(wanted, limit=None, after=None))
        while found := await cursor.fetchmany(page):
            yield found


def _jobs_sql(*, explained: bool) -> str:
    columns = ", ".join(
        f"NULL AS {name}" if name == "wait_reason" and not explained else name for name in JobView.__dataclass_fields__
    )
    return f"""SELECT {columns} FROM runtime.jobs
            WHERE (%(stage)s::text IS NULL OR stage = %(stage)s) AND (%(status)s::text IS NULL OR status = %(status)s)
              AND (%(older)s::interval IS NULL OR age > %(older)s)
              AND (%(error)s::text IS NULL OR strpos(lower(error_message), lower(%(error)s)) > 0)
              AND (%(ids)s::uuid[] IS NULL OR id = ANY (%(ids)s)) AND (%(after)s::uuid IS NULL OR id < %(after)s)
            ORDER BY id DESC LIMIT %(limit)s"""


def _matching(wanted: JobFilter, *, limit: int | None, after: UUID | None) -> dict[str, Any]:
    return {
        "stage": wanted.stage,
        "status": wanted.status,
        "older": wanted.older_than,
        "error": wanted.error,
        "ids": None if wanted.ids is None else list(wanted.ids),
        "after": after,
        "limit": limit,
    }


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


async def list_stages(conn: Raw) -> list[StageView]:
    """Return every stage with its counts. Counts whole tables: for people, not for loops."""
    cursor = conn.cursor(row_factory=class_row(StageView))
    await cursor.execute(
        """SELECT s.name AS stage, count(j.id) FILTER (WHERE j.status = s.ready) AS ready,
                  count(j.id) FILTER (WHERE j.status = s.running) AS running,
                  count(j.id) FILTER (WHERE j.error_message IS NOT NULL AND j.completed_at IS NOT NULL
                                     AND j.status <> s.done) AS failed,
                  max(j.age) FILTER (WHERE j.status = s.ready AND coalesce(j.due_at <= now(), true)) AS oldest_wait,
                  (SELECT count(*) FROM runtime.transitions AS t WHERE t.created_at > now() - interval '1 minute'
                      AND t.stage = s.name AND t.new_state = s.done) AS done_last_minute,
                  (SELECT coalesce(sum(w.slots), 0) FROM runtime.workers AS w
                    WHERE split_part(s.name, '.', 1) = ANY (w.queues) AND w.draining_at IS NULL
                      AND w.heartbeat_at > now() - make_interval(secs => w.lease_seconds)) AS slots,
                  s.limit_at_most, s.paused_at, s.paused_by
             FROM runtime.stages AS s LEFT JOIN runtime.jobs AS j ON j.stage = s.name
            GROUP BY s.name, s.ready, s.running, s.done, s.limit_at_most, s.paused_at, s.paused_by ORDER BY s.name"""
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
