"""Claim a batch, write progress, find runs that lost their fence."""

from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from uuid import UUID

from models.lifecycle import Job, lifecycle_attributes
from workers.runtime.database import Raw
from workers.runtime.handler.errors import MAX_ERROR_CHARACTERS
from workers.runtime.handler.registry import Stage
from workers.runtime.loaders import use_fast_loaders
from workers.runtime.store.locks import find_locked_rows
from workers.runtime.store.tables import READY_SINCE, TICKETS, JobTable, job_table, loaded_jobs, tickets

Ticket = tuple[UUID, int]


@cache
def _claim_sql(t: JobTable, returned: str = "j.*") -> str:
    c = t.column
    # Only a dispatched job can be claimed. Therefore no worker can exceed a concurrency limit.
    return f"""
        UPDATE {t.name} AS j
           SET {c["status"]} = %(running)s, {c["version"]} = j.{c["version"]} + 1, {c["lease_owner"]} = %(owner)s,
               {c["started_at"]} = now(), {c["updated_at"]} = now(), {c["progress"]} = 1,
               {c["deadline_at"]} = now() + make_interval(secs => coalesce(j.{c["timeout_seconds"]}, %(timeout)s)),
               {c["change_action"]} = 'claim', {c["change_reason"]} = NULL
          FROM {TICKETS}
         WHERE j.{c["id"]} = ANY (%(ids)s::uuid[]) AND j.{c["id"]} = u.id AND j.{c["version"]} = u.version
           AND CASE WHEN j.{c["status"]} = %(ready)s AND j.{c["dispatched_at"]} IS NOT NULL THEN true END
        RETURNING {returned}, old.{c["updated_at"]} AS {READY_SINCE}"""


async def claim(conn: Raw, stage: Stage, batch: Sequence[Ticket], *, owner: UUID, free_only: bool = False) -> list[Job]:
    """Move the dispatched jobs of ``batch`` to running under ``owner``; return the jobs that were claimed.

    A duplicate, stale, cancelled or paused ticket claims nothing. The version of each returned job is the fence of its
    run. A job with an unreadable value is returned too (:func:`~workers.runtime.store.tables.unreadable`). With
    ``free_only``, rows that another session has locked are skipped; otherwise the statement waits for them.
    """
    if free_only:
        async with conn.transaction():
            locked = await find_locked_rows(conn, stage.model, [id_ for id_, _ in batch])
            free = [ticket for ticket in batch if ticket[0] not in locked]
            return await claim(conn, stage, free, owner=owner) if free else []
    t = job_table(stage.model)
    cursor = use_fast_loaders(conn.cursor(binary=True))
    await cursor.execute(_claim_sql(t), _claim_values(stage, batch, owner))
    return await loaded_jobs(t, cursor)


def _claim_values(stage: Stage, batch: Sequence[Ticket], owner: UUID) -> dict[str, object]:
    return {
        "running": stage.step.running,
        "ready": stage.step.ready,
        "owner": owner,
        "timeout": stage.timeout / timedelta(seconds=1),
        **tickets(batch),
    }


@cache
def _lifecycle_columns(t: JobTable) -> str:
    """Return the columns of row ``j`` that the kernel needs to end a run. Payload and result are not among them."""
    return ", ".join(
        f"left(j.{column}, {MAX_ERROR_CHARACTERS}) AS {column}" if name == "error_message" else f"j.{column}"
        for name, column in t.column.items()
        if name in lifecycle_attributes(t.model)
    )


async def claim_without_payload(conn: Raw, stage: Stage, batch: Sequence[Ticket], *, owner: UUID) -> list[Job]:
    """Claim as :func:`claim` does, but read no payload and no result: for rows that Postgres cannot send."""
    t = job_table(stage.model)
    cursor = await conn.execute(_claim_sql(t, _lifecycle_columns(t)), _claim_values(stage, batch, owner))
    return await loaded_jobs(t, cursor)


@cache
def _claimed_before_sql(t: JobTable) -> str:
    c = t.column
    return f"""
        SELECT j.* FROM {TICKETS}
          JOIN {t.name} AS j ON j.{c["id"]} = u.id AND j.{c["version"]} = u.version + 1
         WHERE j.{c["id"]} = ANY (%(ids)s::uuid[])
           AND CASE WHEN j.{c["status"]} = %(running)s AND j.{c["lease_owner"]} = %(owner)s THEN true END"""


async def read_claimed_before(conn: Raw, stage: Stage, batch: Sequence[Ticket], *, owner: UUID) -> list[Job]:
    """Return the jobs that an earlier claim of ``batch`` by ``owner`` got, if the answer of that claim was lost."""
    t = job_table(stage.model)
    cursor = await conn.execute(
        _claimed_before_sql(t),
        {
            "running": stage.step.running,
            "owner": owner,
            **tickets(batch),
        },
    )
    return await loaded_jobs(t, cursor)


@cache
def _lost_sql(t: JobTable) -> str:
    c = t.column
    return f"""
        SELECT u.id FROM {TICKETS}
          LEFT JOIN {t.name} AS j
            ON j.{c["id"]} = ANY (%(ids)s::uuid[]) AND j.{c["id"]} = u.id AND j.{c["version"]} = u.version
         WHERE j.{c["id"]} IS NULL"""


async def find_lost_fences(conn: Raw, model: type[Job], runs: Sequence[Ticket]) -> set[UUID]:
    """Return the jobs of ``runs`` that have another version now: their runs cannot settle anything."""
    cursor = await conn.execute(_lost_sql(job_table(model)), tickets(runs))
    return {row[0] for row in await cursor.fetchall()}


@cache
def _progress_sql(t: JobTable) -> str:
    c = t.column
    return f"""
        UPDATE {t.name} SET {c["progress"]} = %(progress)s, {c["updated_at"]} = now()
         WHERE {c["id"]} = %(id)s AND {c["version"]} = %(version)s"""


async def set_progress(conn: Raw, model: type[Job], run: Ticket, progress: int) -> bool:
    """Store ``progress`` (1–99) under the run's fence; return whether it held. A stale run changes nothing."""
    id_, version = run
    cursor = await conn.execute(_progress_sql(job_table(model)), {"progress": progress, "id": id_, "version": version})
    return cursor.rowcount == 1
