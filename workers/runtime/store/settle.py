"""Settle many runs in one statement, each under its fence."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
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
    """The row that a settled run leaves: ``None`` keeps progress as it is; ``delay`` counts from the settle."""

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


@cache
def _settle_sql(t: JobTable, attributes: tuple[str, ...]) -> str:
    c = t.column
    values = "".join(f", {c[name]} = v.{c[name]}" for name in attributes)
    # One evaluation per row, whatever the columns' types: Postgres reads each value from JSON by its own column.
    # What does not run has nothing to settle.
    running = ", ".join(f"'{state}'" for state in sorted(t.lifecycle.running))
    source = f"CROSS JOIN LATERAL jsonb_populate_record(NULL::{t.name}, u.row_values) AS v" if attributes else ""
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
               {c["change_action"]} = u.action, {c["change_reason"]} = u.reason{values}
          FROM jsonb_to_recordset(%(rows)s::jsonb) AS u(
                 job_id uuid, fence int, status {t.status_type}, retry_count int, progress int, delay float8,
                 terminal bool, error text, action text, reason text, row_values jsonb)
               {source}
         WHERE j.{c["id"]} = ANY (%(ids)s::uuid[]) AND j.{c["id"]} = u.job_id AND j.{c["version"]} = u.fence
           AND CASE WHEN j.{c["status"]} IN ({running}) THEN true END
        RETURNING j.{c["id"]}"""


async def settle(conn: Raw, model: type[Job], rows: Sequence[Settled]) -> set[UUID]:
    """Record these outcomes, each under its fence; return the jobs that took theirs.

    A job missing from the result has moved on: its run is stale and nothing of it was written. All rows must set the
    same ``values``. Rows are taken in id order, so that two processes that settle the same jobs cannot deadlock.
    """
    t = job_table(model)
    ordered = sorted(rows, key=lambda row: row.job_id)
    attributes = tuple(sorted(ordered[0].values))
    # One JSON parameter, written in Rust: the driver's dozen of arrays cost more than all else in a settle.
    ids = "{" + ",".join([row.job_id.hex for row in ordered]) + "}"
    content = to_json([_fields(t, row) for row in ordered])
    if attributes and has_long_number(content) and any(values_problem(row.values) for row in ordered):
        raise ValueError("a number has more digits than can be read again")
    cursor = await conn.execute(_settle_sql(t, attributes), {"rows": content.decode(), "ids": ids})
    return {row[0] for row in await cursor.fetchall()}


def _fields(t: JobTable, row: Settled) -> dict[str, Any]:
    """Return what the statement reads of ``row``; what is left out is null."""
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
    if row.values:
        fields["row_values"] = {t.column[name].strip('"'): value for name, value in row.values.items()}
    return fields


async def settled_by(conn: Raw, model: type[Job], rows: Sequence[Settled], *, changed_by: str) -> set[UUID]:
    """Return the jobs among ``rows``, all of ``model``, whose next transition is their own action by ``changed_by``.

    After a commit whose answer was lost, this tells a settle that did happen from a fence that was lost. By the action
    too: a worker that passes on a person's cancel moves its own run's job.
    """
    cursor = await conn.execute(
        f"""SELECT t.job_id, t.version_to - 1, t.change_action FROM {TICKETS}
             JOIN runtime.transitions AS t ON t.job_id = u.id AND t.version_to = u.version + 1
            WHERE t.job_id = ANY (%(ids)s::uuid[]) AND t.changed_by = %(changed_by)s AND t.stage = ANY (%(stages)s)""",
        {
            **tickets([(row.job_id, row.fence) for row in rows]),
            "changed_by": changed_by,
            "stages": [step.stage for step in model.__lifecycle__.steps],  # another table may have a job of this id
        },
    )
    made = set(await cursor.fetchall())
    return {row.job_id for row in rows if (row.job_id, row.fence, row.action) in made}
