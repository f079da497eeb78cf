"""Settle many runs in one statement, each under its fence."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Any
from uuid import UUID

from pydantic_core import to_jsonable_python

from models.lifecycle import Job
from workers.runtime.database import Raw
from workers.runtime.decisions import Settled
from workers.runtime.store.tables import JobTable, job_table


@cache
def _settle_sql(t: JobTable, attributes: tuple[str, ...]) -> str:
    c = t.column
    values = "".join(f", {c[name]} = v.{c[name]}" for name in attributes)
    # One evaluation per row, whatever the columns' types: Postgres reads each value from JSON by its own column.
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
          FROM unnest(%(ids)s::uuid[], %(fences)s::int[], %(statuses)s::text[], %(retry_counts)s::int[],
                      %(progresses)s::int[], %(delays)s::float8[], %(terminals)s::bool[], %(errors)s::text[],
                      %(actions)s::text[], %(reasons)s::text[], %(row_values)s::jsonb[])
               AS u(id, fence, status, retry_count, progress, delay, terminal, error, action, reason, row_values)
               {source}
         WHERE j.{c["id"]} = u.id AND j.{c["version"]} = u.fence
        RETURNING j.{c["id"]}"""


async def settle(conn: Raw, model: type[Job], rows: Sequence[Settled]) -> set[UUID]:
    """Record these outcomes, each under its fence; return the jobs that took theirs.

    A job missing from the result has moved on: its run is stale and nothing of it was written. All rows must set the
    same ``values``. Rows are taken in id order, so that two processes that settle the same jobs cannot deadlock.
    """
    t = job_table(model)
    ordered = sorted(rows, key=lambda row: row.job_id)
    attributes = tuple(sorted(ordered[0].values))
    cursor = await conn.execute(
        _settle_sql(t, attributes),
        {
            "ids": [row.job_id for row in ordered],
            "fences": [row.fence for row in ordered],
            "statuses": [row.status for row in ordered],
            "retry_counts": [row.retry_count for row in ordered],
            "progresses": [row.progress for row in ordered],
            "delays": [None if row.delay is None else row.delay / timedelta(seconds=1) for row in ordered],
            "terminals": [row.terminal for row in ordered],
            "errors": [row.error for row in ordered],
            "actions": [row.action for row in ordered],
            "reasons": [row.reason for row in ordered],
            "row_values": [_as_json(t, row.values) for row in ordered],
        },
    )
    return {row[0] for row in await cursor.fetchall()}


def _as_json(t: JobTable, values: Mapping[str, Any]) -> str | None:
    if not values:
        return None
    return json.dumps({t.column[name].strip('"'): to_jsonable_python(value) for name, value in values.items()})


async def settled_by(conn: Raw, fences: Sequence[tuple[UUID, int]], *, changed_by: str) -> set[UUID]:
    """Return the jobs among ``fences`` whose next transition was made by ``changed_by``.

    After a commit whose answer was lost, this tells a settle that did happen from a fence that was lost.
    """
    cursor = await conn.execute(
        """SELECT t.job_id FROM unnest(%(ids)s::uuid[], %(versions)s::int[]) AS u(id, version)
             JOIN runtime.transitions AS t ON t.job_id = u.id AND t.version_to = u.version + 1
            WHERE t.changed_by = %(changed_by)s""",
        {"ids": [id for id, _ in fences], "versions": [version for _, version in fences], "changed_by": changed_by},
    )
    return {row[0] for row in await cursor.fetchall()}
