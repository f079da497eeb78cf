"""Read jobs for people: lists, one job, its history. The dispatcher does not use these statements."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import AsyncServerCursor
from psycopg.rows import class_row, dict_row, scalar_row
from sqlalchemy import JSON, Enum, String, inspect

from models.lifecycle import Job, lifecycle_attributes
from workers.runtime.database import Raw
from workers.runtime.handler.documents import json_value
from workers.runtime.store.states import find_states
from workers.runtime.store.tables import job_table


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """One row of ``runtime.jobs``: a job of any table, and why it waits.

    ``shown_as`` is the name under which people and services read the status.
    """

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
    shown_as: str


# If a payload or result of a job is larger, it is not fetched to be shown.
MAX_JOB_VALUE_BYTES = 16 * 1024 * 1024

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
    """A filter of jobs: a job must match every part that is set.

    ``status`` is a group of states or a state, in upper or lower case. ``error`` is a part of the error message, in
    upper or lower case; ``…`` in it matches any text, as in the causes that ``errors`` prints.
    """

    stage: str | None = None
    status: str | None = None
    older_than: timedelta | None = None
    error: str | None = None
    ids: Sequence[UUID] | None = None


async def list_jobs(conn: Raw, wanted: JobFilter, *, limit: int, after: UUID | None = None) -> list[JobView]:
    """Return up to ``limit`` jobs, newest first; ``after`` is the last id of the page before.

    Raise UnknownStateError if no table knows the status.
    """
    cursor = conn.cursor(row_factory=class_row(JobView))
    await cursor.execute(_jobs_sql(with_reason=True), await _filter_values(conn, wanted, limit=limit, after=after))
    return await cursor.fetchall()


async def scan_jobs(conn: Raw, wanted: JobFilter, *, page: int) -> AsyncIterator[list[JobView]]:
    """Yield all matching jobs, ``page`` at a time, newest first, as they were at the start.

    One statement finds all jobs. They do not have their ``wait_reason``. The caller may use the connection between
    two pages.
    """
    values = await _filter_values(conn, wanted, limit=None, after=None)
    cursor = AsyncServerCursor(conn, "scan_jobs", row_factory=class_row(JobView), withhold=True)
    async with cursor:
        await cursor.execute(_jobs_sql(with_reason=False), values)
        while found := await cursor.fetchmany(page):
            yield found


def _jobs_sql(*, with_reason: bool) -> str:
    columns = ", ".join(
        f"NULL AS {name}" if name == "wait_reason" and not with_reason else name
        for name in JobView.__dataclass_fields__
    )
    return f"""SELECT {columns} FROM runtime.jobs
            WHERE (%(stage)s::text IS NULL OR stage = %(stage)s)
              AND (%(tables)s::text[] IS NULL OR (table_name, status) IN (
                    SELECT * FROM unnest(%(tables)s::text[], %(states)s::text[])))
              AND (%(older)s::interval IS NULL OR age > %(older)s)
              AND (%(error)s::text IS NULL OR lower(error_message) LIKE lower(%(error)s))
              AND (%(ids)s::uuid[] IS NULL OR id = ANY (%(ids)s)) AND (%(after)s::uuid IS NULL OR id < %(after)s)
            ORDER BY id DESC LIMIT %(limit)s"""


async def _filter_values(conn: Raw, wanted: JobFilter, *, limit: int | None, after: UUID | None) -> dict[str, Any]:
    """Return the values of :func:`_jobs_sql`; raise UnknownStateError if no table knows the status."""
    states = None if wanted.status is None else await find_states(conn, wanted.status)
    return {
        "stage": wanted.stage,
        "tables": None if states is None else [table for table, _ in states],
        "states": None if states is None else [state for _, state in states],
        "older": wanted.older_than,
        "error": None if wanted.error is None else like_pattern(wanted.error),
        "ids": None if wanted.ids is None else list(wanted.ids),
        "after": after,
        "limit": limit,
    }


def like_pattern(error: str) -> str:
    """Return the LIKE pattern that finds error messages with this part."""
    escaped = error.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped.replace('…', '%')}%"


async def get_job(conn: Raw, job_id: UUID) -> JobView | None:
    """Return one job, or None if no table has it (any more)."""
    found = await list_jobs(conn, JobFilter(ids=[job_id]), limit=1)
    return found[0] if found else None


async def history(conn: Raw, job_id: UUID, *, table: str | None = None) -> list[TransitionView]:
    """Return a job's transitions in order; they are kept longer than the job.

    Jobs of two tables can have the same id; ``table`` (as in ``runtime.jobs``) chooses one of them.
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


async def read_leader_silence(conn: Raw) -> timedelta | None:
    """Return how long ago the leading dispatcher last renewed its lease; None if none ever led."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute("SELECT now() - seen_at FROM runtime.dispatcher WHERE leader IS NOT NULL")
    silence: timedelta | None = await cursor.fetchone()
    return silence


async def list_stage_names(conn: Raw) -> list[str]:
    """Return the names of all stages that the database knows."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute("SELECT name FROM runtime.stages ORDER BY name")
    return await cursor.fetchall()


async def list_stage_tables(conn: Raw) -> dict[str, str]:
    """Return the table of each stage that the database knows, by the name of the stage."""
    cursor = await conn.execute("SELECT name, table_name FROM runtime.stages ORDER BY name")
    return dict(await cursor.fetchall())


async def read_own_values(conn: Raw, model: type[Job], job_id: UUID) -> dict[str, Any]:
    """Return the payload and the result of a job, by attribute: all columns that are not of the lifecycle.

    A JSON value that is too large to be shown is returned as an ``Undecodable`` with that reason; a text is cut.
    """
    t = job_table(model)
    kernel = lifecycle_attributes(model)
    types = {attribute.key: attribute.columns[0].type for attribute in inspect(model).column_attrs}
    shown = []
    for name, column in t.column.items():
        if name in kernel:
            continue
        if isinstance(types[name], JSON):
            shown.append(
                f"CASE WHEN {column} IS NOT NULL"
                f" THEN coalesce(runtime.readable({column}, {MAX_JOB_VALUE_BYTES}), '') END"
                f' AS "{name}"'
            )
        else:
            cut = isinstance(types[name], String) and not isinstance(types[name], Enum)
            shown.append(f'left({column}, {MAX_JOB_VALUE_BYTES}) AS "{name}"' if cut else f'{column} AS "{name}"')
    cursor = conn.cursor(row_factory=dict_row)
    sql = f"SELECT {', '.join(shown)} FROM {t.name} WHERE {t.column['id']} = %(id)s"
    await cursor.execute(sql, {"id": job_id})
    row = await cursor.fetchone() or {}
    return {
        name: json_value(value, most_bytes=MAX_JOB_VALUE_BYTES) if isinstance(types[name], JSON) else value
        for name, value in row.items()
    }


async def count_slots_by_queue(conn: Raw) -> dict[str, int]:
    """Return the number of slots of each queue with live workers; draining workers do not count."""
    cursor = await conn.execute(
        """SELECT queue, greatest(least(sum(slots), 2147483647), 0)::int
             FROM runtime.workers CROSS JOIN LATERAL unnest(queues) AS queue
            WHERE draining_at IS NULL
              AND heartbeat_at > now() - make_interval(secs => greatest(least(lease_seconds, 86400), 0))
            GROUP BY queue"""
    )
    return dict(await cursor.fetchall())


@dataclass(frozen=True, slots=True)
class Lease:
    """The worker process that holds a job, the end of its lease, and whether that time has passed."""

    worker: str
    until: datetime
    is_over: bool


async def read_lease(conn: Raw, owner: UUID) -> Lease | None:
    """Return the lease of a worker process, which covers all its jobs; None if its row is gone."""
    cursor = conn.cursor(row_factory=class_row(Lease))
    await cursor.execute(
        """SELECT name AS worker, lease.until, lease.until < now() AS is_over FROM runtime.workers
            CROSS JOIN LATERAL (
              SELECT heartbeat_at + make_interval(secs => greatest(least(lease_seconds, 1e9), 0)) AS until) AS lease
            WHERE id = %(id)s""",
        {"id": owner},
    )
    return await cursor.fetchone()


async def read_deadline(conn: Raw, model: type[Job], job_id: UUID) -> datetime | None:
    """Return the time at which the run of a job is ended; None if it has no deadline."""
    t = job_table(model)
    cursor = await conn.execute(
        f"""SELECT {t.column["deadline_at"]} FROM {t.name}
             WHERE {t.column["id"]} = %(id)s AND isfinite({t.column["deadline_at"]})""",
        {"id": job_id},
    )
    row = await cursor.fetchone()
    return row[0] if row else None
