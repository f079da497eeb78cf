"""Enqueue one job in a transaction of its own, with one round trip to Postgres. For doors that enqueue for others.

The settings of the transaction (whose role, who acts) and the INSERT go to Postgres together: a pipeline is one
transaction, which Postgres commits at its end. The rules are those of :func:`workers.runtime.enqueue.enqueue`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

import psycopg

from workers.runtime.database import Database, Raw
from workers.runtime.enqueue import compared_fields, insert_sql, key_taken, repeats_sql, why_refused
from workers.runtime.enqueue_validation import (
    KEY_INDEX,
    OPTIONS,
    EnqueueError,
    ValidJobs,
    raise_first_problem,
    validate_jobs,
)
from workers.runtime.handler.registry import discover, registry
from workers.runtime.store.tables import JobTable
from workers.runtime.tracing import current_traceparent

_SET = "SELECT set_config(name, value, true) FROM json_each_text(%(settings)s::json) AS s (name, value)"
# Of a kernel's connection: another transaction may hold the key for longer, and the plan is the same for any job.
SETTINGS: Mapping[str, str] = {"lock_timeout": "10s", "plan_cache_mode": "auto"}


@dataclass(frozen=True, slots=True)
class EnqueuedAtOnce:
    """The job of a request. ``created_at`` and ``max_retries`` are those of a new job, else None."""

    id: UUID
    created: bool
    table: JobTable | None = None
    created_at: datetime | None = None
    max_retries: int | None = None


def can_enqueue_at_once(job: Mapping[str, Any]) -> bool:
    """Tell whether :func:`enqueue_at_once` can take this job: not if it is for the batch lane."""
    return job.get("lane") != "batch"


async def enqueue_at_once(database: Database, settings: str, stage_name: str, job: Mapping[str, Any]) -> EnqueuedAtOnce:
    """Enqueue one job and commit. ``settings`` are those of the transaction as JSON, with :data:`SETTINGS`.

    ``job`` is the payload with the options beside it. Raise UnknownStageError or EnqueueError.
    """
    stage = registry[stage_name] if stage_name in registry else discover()[stage_name]
    valid = validate_jobs(stage, [job], traceparent=current_traceparent())
    if valid.batch_within:
        raise ValueError("a job of the batch lane needs a session: use enqueue")
    try:
        async with database.kernel() as conn:
            done = await _insert(conn, settings, valid)
    except (psycopg.DataError, psycopg.IntegrityError, UnicodeEncodeError) as error:
        raise_first_problem([job])
        raise EnqueueError(why_refused(error, valid.table)) from None
    return done


async def _insert(conn: Raw, settings: str, valid: ValidJobs) -> EnqueuedAtOnce:
    t = valid.table
    columns = _columns(t, valid.attributes)
    rows = json.dumps([dict(zip(columns, valid.rows[0], strict=True))], allow_nan=False)
    inserted = await _run_as(conn, settings, _bound(insert_sql(t, valid.attributes)), {"rows": rows})
    if inserted is not None:
        return EnqueuedAtOnce(inserted[0], True, t, inserted[2], inserted[3])
    # A transaction of its own: its snapshot sees the first job even if another session has just committed it.
    fields, rerun = compared_fields(t, valid.attributes), [0 in valid.rerun]
    values = {"columns": list(columns), "fields": fields, "rows": rows, "rerun": rerun}
    found = await _run_as(conn, settings, _bound(repeats_sql(t)), values)
    key = valid.rows[0][len(valid.attributes) - len(OPTIONS) + KEY_INDEX]
    if found is None or found[1] is None:  # row level security hides its job from this session
        raise EnqueueError(key_taken("that cannot be seen (any more)", key))
    _, id_, created, differs = found
    if differs:
        raise EnqueueError(key_taken(f"with another {', '.join(differs)}", key))
    return EnqueuedAtOnce(id_, created, t)


async def _run_as(conn: Raw, settings: str, statement: bytes, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Run one statement in a transaction of its own with ``settings``; return its first row."""
    async with conn.pipeline():
        await conn.execute(_SET, {"settings": settings}, prepare=True)
        cursor = await conn.execute(statement, values, prepare=True)
    row: tuple[Any, ...] | None = await cursor.fetchone()
    return row


@cache
def _columns(t: JobTable, attributes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(t.column[name].strip('"') for name in attributes)


@cache
def _bound(statement: str) -> bytes:
    """Return a statement with the driver's placeholders instead of SQLAlchemy's."""
    return re.sub(r"(?<!:):([a-z]+)", r"%(\1)s", statement).encode()
