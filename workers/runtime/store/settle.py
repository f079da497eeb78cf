"""Settle many runs in one statement, each under its fence."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from pydantic_core import to_json

from models.lifecycle import Job
from workers.runtime.bounds import has_long_number, values_problem
from workers.runtime.database import Raw
from workers.runtime.store.tables import TICKETS, JobTable, job_table, tickets


class Settled(NamedTuple):
    """The values that a settle writes for one run. ``progress`` None keeps it; ``delay`` counts from the settle.

    ``until`` is the deadline of the wait that the job enters, as a time or counted from the settle.
    """

    job_id: UUID
    fence: int
    status: str
    action: str
    retry_count: int
    terminal: bool
    progress: int | None = None
    delay: timedelta | None = None
    reason: str | None = None
    error: str | None = None
    values: Mapping[str, Any] = MappingProxyType({})
    until: datetime | timedelta | None = None


@cache
def _settle_sql(t: JobTable, attributes: tuple[str, ...]) -> str:
    c = t.column
    values = "".join(f", {c[name]} = v.{c[name]}" for name in attributes)
    # Postgres converts each JSON value to the type of its column, once per row.
    # A job that is not running has nothing to settle.
    running = ", ".join(f"'{state}'" for state in sorted(t.lifecycle.running))
    source = f"CROSS JOIN LATERAL jsonb_populate_record(NULL::{t.name}, u.row_values) AS v" if attributes else ""
    wait, of_wait = _wait_columns(t)
    return f"""
        UPDATE {t.name} AS j
           SET {c["status"]} = u.status, {c["version"]} = j.{c["version"]} + 1, {c["retry_count"]} = u.retry_count,
               {c["progress"]} = coalesce(u.progress, j.{c["progress"]}),
               {c["due_at"]} = now() + make_interval(secs => u.delay),
               {c["dispatched_at"]} = NULL, {c["deadline_at"]} = NULL,
               {c["lease_owner"]} = CASE WHEN u.terminal THEN j.{c["lease_owner"]} END,
               {c["started_at"]} = CASE WHEN u.terminal THEN j.{c["started_at"]} END,
               {c["completed_at"]} = CASE WHEN u.terminal THEN now() END,
               {c["updated_at"]} = now(), {c["error_message"]} = u.error,
               {c["change_action"]} = u.action, {c["change_reason"]} = u.reason{wait}{values}
          FROM jsonb_to_recordset(%(rows)s::jsonb) AS u(
                 job_id uuid, fence int, status {t.status_type}, retry_count int, progress int, delay float8,
                 terminal bool, error text, action text, reason text, row_values jsonb{of_wait})
               {source}
         WHERE j.{c["id"]} = ANY (%(ids)s::uuid[]) AND j.{c["id"]} = u.job_id AND j.{c["version"]} = u.fence
           AND CASE WHEN j.{c["status"]} IN ({running}) THEN true END
        RETURNING j.{c["id"]}"""


def _wait_columns(t: JobTable) -> tuple[str, str]:
    """Return the assignment and the columns for the deadline of a wait that a job enters; empty without waits."""
    if t.lifecycle.deadline is None:
        return "", ""
    column = t.column[t.lifecycle.deadline]
    deadline = "coalesce(u.until, now() + make_interval(secs => u.lasts))"
    return f", {column} = {deadline}", ", until timestamptz, lasts float8"


async def settle(conn: Raw, model: type[Job], rows: Sequence[Settled]) -> set[UUID]:
    """Record these outcomes, each under its fence; return the jobs that were settled.

    If a job is missing in the result, its run is stale: the job has a newer version, and nothing was written for the
    run. All rows must set the same ``values``. Rows are locked in id order, so that two processes that settle the same
    jobs cannot deadlock.
    """
    t = job_table(model)
    ordered = sorted(rows, key=lambda row: row.job_id)
    attributes = tuple(sorted(ordered[0].values))
    # One JSON parameter, encoded in Rust: the driver's dozen arrays cost more than the rest of a settle.
    ids = "{" + ",".join([row.job_id.hex for row in ordered]) + "}"
    content = to_json([_fields(t, row) for row in ordered])
    if attributes and has_long_number(content) and any(values_problem(row.values) for row in ordered):
        raise ValueError("a number has too many digits to be read again")
    cursor = await conn.execute(_settle_sql(t, attributes), {"rows": content.decode(), "ids": ids})
    return {row[0] for row in await cursor.fetchall()}


def _fields(t: JobTable, row: Settled) -> dict[str, Any]:
    """Return the values of ``row`` for the statement; a missing one is null."""
    fields: dict[str, Any] = {
        "job_id": row.job_id.hex,
        "fence": row.fence,
        "status": row.status,
        "retry_count": row.retry_count,
        "progress": row.progress,
        "terminal": row.terminal,
        "action": row.action,
    }
    if row.reason is not None or row.error is not None:
        fields |= {"reason": row.reason, "error": row.error}
    if row.delay is not None:
        fields["delay"] = row.delay / timedelta(seconds=1)
    if isinstance(row.until, timedelta):
        fields["lasts"] = row.until / timedelta(seconds=1)
    elif row.until is not None:
        fields["until"] = row.until.isoformat()
    if row.values:
        fields["row_values"] = {t.column[name].strip('"'): value for name, value in row.values.items()}
    return fields


async def find_settled(conn: Raw, model: type[Job], rows: Sequence[Settled], *, changed_by: str) -> set[UUID]:
    """Return the jobs of ``rows`` (all of ``model``) that ``changed_by`` has settled: the next transition is theirs.

    If the answer of a commit was lost, this tells whether the settle happened or the fence was lost. The action is
    compared too, because a worker that passes on a person's cancel changes the job of its own run.
    """
    cursor = await conn.execute(
        f"""SELECT t.job_id, t.version_to - 1, t.change_action FROM {TICKETS}
             JOIN runtime.transitions AS t ON t.job_id = u.id AND t.version_to = u.version + 1
            WHERE t.job_id = ANY (%(ids)s::uuid[]) AND t.changed_by = %(changed_by)s AND t.stage = ANY (%(stages)s)""",
        {
            **tickets([(row.job_id, row.fence) for row in rows]),
            "changed_by": changed_by,
            "stages": [step.stage for step in model.__lifecycle__.steps],  # another table may have a job with this id
        },
    )
    made = set(await cursor.fetchall())
    return {row.job_id for row in rows if (row.job_id, row.fence, row.action) in made}
