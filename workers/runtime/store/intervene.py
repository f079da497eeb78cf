"""What an operator does with jobs (cancel, retry) and with stages (pause, resume)."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from uuid import UUID

from psycopg.errors import CheckViolation

from models.lifecycle import Job
from workers.runtime.database import Raw
from workers.runtime.store.tables import JobTable, job_table


@cache
def _cancel_sql(t: JobTable) -> str:
    c = t.column
    cycle = t.lifecycle
    live = ", ".join(f"'{state}'" for state in sorted(cycle.ready | cycle.running | cycle.waiting))
    wait = f"{c[cycle.deadline]} = NULL, " if cycle.deadline else ""
    return f"""
        UPDATE {t.name} AS j
           SET {c["status"]} = '{t.lifecycle.cancelled}', {c["version"]} = j.{c["version"]} + 1,
               {c["completed_at"]} = now(), {c["updated_at"]} = now(), {c["due_at"]} = NULL,
               {c["dispatched_at"]} = NULL, {c["deadline_at"]} = NULL, {c["progress"]} = {t.progress_at_end}, {wait}
               {c["change_action"]} = 'cancel', {c["change_reason"]} = %(reason)s
         WHERE j.{c["id"]} = ANY (%(ids)s) AND j.{c["status"]} IN ({live})
        RETURNING j.{c["id"]}"""


async def cancel(conn: Raw, model: type[Job], ids: Sequence[UUID], *, reason: str) -> set[UUID]:
    """Cancel these jobs if they are ready, running or waiting; return the cancelled ones. Terminal jobs stay.

    This statement also changes the fence of a running job: its run cannot settle any more, and its worker gets a
    NOTIFY to stop it.
    """
    cursor = await conn.execute(_cancel_sql(job_table(model)), {"ids": list(ids), "reason": reason})
    return {row[0] for row in await cursor.fetchall()}


async def cancel_by_function(conn: Raw, job_id: UUID, *, reason: str) -> bool:
    """Cancel a job that the session's role may cancel; return whether it was cancelled."""
    cursor = await conn.execute(
        "SELECT runtime.cancel(%(id)s::uuid, %(reason)s::text)", {"id": job_id, "reason": reason}
    )
    row = await cursor.fetchone()
    return bool(row and row[0])


async def decide_by_function(
    conn: Raw, job_id: UUID, version: int, into: str, *, reason: str, until: datetime | None
) -> bool:
    """Decide the wait of a job that the session's role may decide; return whether it was decided."""
    cursor = await conn.execute(
        "SELECT runtime.decide("
        "%(id)s::uuid, %(version)s::int, %(into)s::text, %(reason)s::text, %(until)s::timestamptz)",
        {"id": job_id, "version": version, "into": into, "reason": reason, "until": until},
    )
    row = await cursor.fetchone()
    return bool(row and row[0])


async def lock_version(conn: Raw, model: type[Job], job_id: UUID) -> int | None:
    """Lock one job's row for the current transaction; return its version, None if the job is gone."""
    t = job_table(model)
    cursor = await conn.execute(
        f"SELECT {t.column['version']} FROM {t.name} WHERE {t.column['id']} = %(id)s FOR NO KEY UPDATE", {"id": job_id}
    )
    row = await cursor.fetchone()
    return row[0] if row else None


@cache
def _retry_sql(t: JobTable) -> str:
    c, steps = t.column, t.lifecycle.steps
    # A job continues in the step in which it failed.
    ready = f"'{steps[0].ready}'"
    if len(steps) > 1:
        places = " ".join(
            f"WHEN '{state}' THEN '{step.ready}'" for step in steps for state in t.lifecycle.states_of(step)
        )
        ready = f"(CASE j.{c['ended_in']} {places} ELSE {ready} END)"
    return f"""
        UPDATE {t.name} AS j
           SET {c["status"]} = {ready}::{t.status_type},
               {c["version"]} = j.{c["version"]} + 1, {c["retry_count"]} = j.{c["retry_count"]} + 1,
               {c["max_retries"]} = greatest(j.{c["max_retries"]}, j.{c["retry_count"]} + 1),
               {c["completed_at"]} = NULL, {c["started_at"]} = NULL, {c["lease_owner"]} = NULL,
               {c["due_at"]} = NULL, {c["progress"]} = 0, {c["updated_at"]} = now(),
               {c["change_action"]} = 'retry', {c["change_reason"]} = %(reason)s
                 || CASE WHEN j.{c["retry_count"]} < j.{c["max_retries"]} THEN ''
                         ELSE ' (one attempt granted beyond ' || j.{c["max_retries"]} + 1 || ')' END
         WHERE j.{c["id"]} = ANY (%(ids)s) AND j.{c["status"]} = '{t.lifecycle.failed}'
        RETURNING j.{c["id"]}"""


async def retry(conn: Raw, model: type[Job], ids: Sequence[UUID], *, reason: str) -> set[UUID]:
    """Send these failed jobs back to ready, which spends one attempt; return the jobs that were sent back.

    A job without an attempt left is granted one more. If its table does not allow a larger ``max_retries``, it stays
    failed.
    """
    try:
        async with conn.transaction():
            return await _retry_all(conn, model, ids, reason)
    except CheckViolation as refused:
        if not (refused.diag.constraint_name or "").endswith("max_retries"):
            raise
        if len(ids) == 1:
            return set()
    half = len(ids) // 2  # some are refused: halve the list until the others are found
    return {id_ for part in (ids[:half], ids[half:]) for id_ in await retry(conn, model, part, reason=reason)}


async def _retry_all(conn: Raw, model: type[Job], ids: Sequence[UUID], reason: str) -> set[UUID]:
    cursor = await conn.execute(_retry_sql(job_table(model)), {"ids": list(ids), "reason": reason})
    return {row[0] for row in await cursor.fetchall()}


async def pause(conn: Raw, stage: str, *, by: str | None) -> bool:
    """Stop dispatching ``stage``; return whether it is known. The leader takes back the tickets of its jobs."""
    cursor = await conn.execute(
        "UPDATE runtime.stages SET paused_at = coalesce(paused_at, now()), paused_by = coalesce(paused_by, %(by)s) "
        "WHERE name = %(stage)s",
        {"stage": stage, "by": by},
    )
    return cursor.rowcount == 1


async def resume(conn: Raw, stage: str) -> bool:
    """Dispatch ``stage`` again; return whether it is known."""
    cursor = await conn.execute(
        "UPDATE runtime.stages SET paused_at = NULL, paused_by = NULL WHERE name = %(stage)s", {"stage": stage}
    )
    return cursor.rowcount == 1
