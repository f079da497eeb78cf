"""Insert jobs into their table in the caller's transaction, with few statements for any number. Publishes nothing."""

import json
import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, overload
from uuid import UUID

import psycopg
from psycopg import errors
from sqlalchemy import text
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from workers.runtime.enqueue_validation import (
    KEY_INDEX,
    MAY_DIFFER,
    OPTIONS,
    EnqueueError,
    ValidJobs,
    payload_mapping,
    raise_first_problem,
    validate_jobs,
)
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.documents import NUL
from workers.runtime.handler.registry import discover, registry
from workers.runtime.refusals import Problem, quoted
from workers.runtime.store.bulk import can_copy, copy_in, may_give_ids, new_ids
from workers.runtime.store.tables import JobTable
from workers.runtime.tracing import current_traceparent

__all__ = ["ROWS_PER_STATEMENT", "ROWS_TO_COPY", "EnqueueError", "Enqueued", "enqueue", "enqueue_many"]

ROWS_PER_STATEMENT = 5_000
# Fewer jobs than this are inserted, not copied: the round trips of COPY would cost more than they save.
ROWS_TO_COPY = 100


@dataclass(frozen=True, slots=True)
class Enqueued:
    """The job of a request: a new one, or the first job with its idempotency key."""

    id: UUID
    created: bool


@overload
def enqueue(session: Session, stage: str, payload: Mapping[str, Any], **options: Any) -> Enqueued: ...
@overload
def enqueue(session: AsyncSession, stage: str, payload: Mapping[str, Any], **options: Any) -> Awaitable[Enqueued]: ...
def enqueue(
    session: Session | AsyncSession, stage: str, payload: Mapping[str, Any], **options: Any
) -> Enqueued | Awaitable[Enqueued]:
    """Enqueue one job in ``session``'s transaction and return its id; with an AsyncSession, await the result.

    Options: ``priority`` (1 first … 10 last), ``due_at`` (None: now), ``idempotency_key`` (a repeat by the same owner
    returns the first job; with another payload it is refused); ``lane="batch"`` lets language models answer for half
    the price ``within`` a time span (by default ``24h``; the first job of a repeated key keeps its lane);
    ``callback_url`` is told when the job has ended; ``traceparent`` is the caller's trace (None: that of the current
    span, if this process traces). The first job of a repeated key keeps both. ``on_failed="rerun"`` makes a new job if
    the first job of the key failed or was cancelled. The job does not start before the caller commits. Raise
    UnknownStageError or EnqueueError.
    """
    if isinstance(session, AsyncSession):
        return session.run_sync(lambda sync: _enqueue(sync, stage, [_job(payload, options)])[0])
    return _enqueue(session, stage, [_job(payload, options)])[0]


def _job(payload: object, options: Mapping[str, Any]) -> dict[str, Any]:
    return {**payload_mapping(payload), **options}


@overload
def enqueue_many(session: Session, stage: str, jobs: Sequence[Mapping[str, Any]]) -> list[Enqueued]: ...
@overload
def enqueue_many(session: AsyncSession, stage: str, jobs: Sequence[Mapping[str, Any]]) -> Awaitable[list[Enqueued]]: ...
def enqueue_many(
    session: Session | AsyncSession, stage: str, jobs: Sequence[Mapping[str, Any]]
) -> list[Enqueued] | Awaitable[list[Enqueued]]:
    """Enqueue many jobs of one stage; each mapping is a payload, with the options of :func:`enqueue` beside it.

    Jobs without keys are copied in; others are inserted with one statement per 5,000. The results are in the order of
    ``jobs``. The ids ascend in that order too, except for keyed jobs of a member of ``gristmill_service``. If one job
    is invalid, all are refused and the error names its position.
    """
    if isinstance(session, AsyncSession):
        return session.run_sync(lambda sync: _enqueue(sync, stage, jobs))
    return _enqueue(session, stage, jobs)


def _enqueue(session: Session, stage_name: str, jobs: Sequence[Mapping[str, Any]]) -> list[Enqueued]:
    # A process that only enqueues has not imported the handlers: import them when a stage is not found.
    stage = registry[stage_name] if stage_name in registry else discover()[stage_name]
    valid = validate_jobs(stage, jobs, traceparent=current_traceparent())
    failpoint("enqueue.before")
    try:
        done = _put(session, valid)
        _put_in_lane(session, valid, done)
    except (DataError, IntegrityError) as error:
        raise_first_problem(jobs)
        raise EnqueueError(why_refused(error.orig, valid.table)) from None
    except (psycopg.DataError, psycopg.IntegrityError, UnicodeEncodeError) as error:  # from COPY, without SQLAlchemy
        raise_first_problem(jobs)
        raise EnqueueError(why_refused(error, valid.table)) from None
    failpoint("enqueue.after")
    return done


def _put(session: Session, valid: ValidJobs) -> list[Enqueued]:
    """Insert the jobs; if the session may choose ids, they ascend in the order of its rows."""
    if not valid.rows:
        return []
    if len(valid.rows) == 1:
        return _insert(session, valid, [0], None)
    keys, connection = valid.keys(), session.connection()
    # A service's role may not choose ids: then the database does, in the order of the keys.
    ids = new_ids(connection, len(keys)) if may_give_ids(connection, valid.table) else None
    if ids and len(ids) >= ROWS_TO_COPY and not any(keys) and can_copy(connection, valid.table, valid.attributes):
        copy_in(connection, valid.table, valid.attributes, ids, valid.rows)
        return [Enqueued(id_, created=True) for id_ in ids]
    # All statements insert in the order of the keys, so that two callers with the same keys cannot deadlock.
    order = sorted(range(len(keys)), key=lambda place: keys[place] or "")
    done: dict[int, Enqueued] = {}
    for start in range(0, len(order), ROWS_PER_STATEMENT):
        places = order[start : start + ROWS_PER_STATEMENT]
        given = ids and [ids[place] for place in places]
        part = _insert(session, valid, places, given)
        done.update(zip(places, part, strict=True))
    return [done[place] for place in range(len(keys))]


_PUT_IN_LANE = text("SELECT runtime.put_in_lane(CAST(:ids AS uuid[]), 'batch', make_interval(secs => :seconds))")


def _put_in_lane(session: Session, valid: ValidJobs, done: Sequence[Enqueued]) -> None:
    """Write which of the new jobs are in the batch lane, one statement for all that may take the same time."""
    together: dict[timedelta, list[str]] = {}
    for place, within in valid.batch_within.items():
        if done[place].created:
            together.setdefault(within, []).append(done[place].id.hex)
    for within, ids in together.items():
        session.execute(_PUT_IN_LANE, {"ids": "{" + ",".join(ids) + "}", "seconds": within.total_seconds()})


@cache
def insert_sql(t: JobTable, attributes: tuple[str, ...]) -> str:
    """Return the statement that inserts the jobs of ``:rows``; repeated keys are left out.

    It returns id, key, time of creation and number of retries of the new jobs, in the order of the rows.
    """
    c = t.column
    return f"""
        INSERT INTO {t.name} ({", ".join(c[name] for name in attributes)})
        SELECT {", ".join(f"r.{c[name]}" for name in attributes)}
          FROM jsonb_array_elements(CAST(:rows AS jsonb)) WITH ORDINALITY AS e(job, nth)
         CROSS JOIN LATERAL jsonb_populate_record(NULL::{t.name}, e.job) AS r
         ORDER BY nth
        ON CONFLICT ({c["owner_id"]}, {c["idempotency_key"]}) WHERE {c["idempotency_key"]} IS NOT NULL DO NOTHING
        RETURNING {c["id"]}, {c["idempotency_key"]}, {c["created_at"]}, {c["max_retries"]}"""


@cache
def repeats_sql(t: JobTable) -> str:
    """Return the statement that finds the jobs of ``:rows``, of which the keys are taken."""
    return f"""
        SELECT ordinal, id, created, differs
          FROM runtime.repeat_jobs('{t.label}', CAST(:columns AS text[]), CAST(:fields AS jsonb), CAST(:rows AS jsonb),
                                   CAST(:rerun AS boolean[]))"""


@cache
def compared_fields(t: JobTable, attributes: tuple[str, ...]) -> str:
    """Return the fields that must be the same in a repeat, as ``runtime.repeat_jobs`` reads them."""
    return json.dumps(
        [
            {"name": name, "column": t.column[name].strip('"'), "grows": name in t.model.__may_grow__}
            for name in attributes
            if name not in MAY_DIFFER and name not in t.model.__may_differ__
        ]
    )


def _insert(session: Session, valid: ValidJobs, places: Sequence[int], ids: Sequence[UUID] | None) -> list[Enqueued]:
    """Insert the rows at ``places`` in their order; for a key that its owner has used before, return its job."""
    t, attributes = valid.table, valid.attributes
    rows, rerun = [valid.rows[place] for place in places], [place in valid.rerun for place in places]
    columns = [t.column[name].strip('"') for name in attributes]
    content = [dict(zip(columns, row, strict=True)) for row in rows]
    if ids:
        attributes = ("id", *attributes)
        content = [row | {"id": str(id_)} for row, id_ in zip(content, ids, strict=True)]
    keys = [row[len(valid.attributes) - len(OPTIONS) + KEY_INDEX] for row in rows]
    inserted = session.execute(text(insert_sql(t, attributes)), {"rows": json.dumps(content, allow_nan=False)}).all()
    if len(inserted) == len(rows):
        return [Enqueued(row[0], created=True) for row in inserted]
    done = _inserted(keys, [(row[0], row[1]) for row in inserted])
    repeats = [place for place in range(len(rows)) if place not in done]
    found = _repeats(session, valid, [content[place] for place in repeats], [rerun[place] for place in repeats])
    done.update(zip(repeats, found, strict=True))
    return [done[place] for place in range(len(rows))]


def _inserted(keys: Sequence[str | None], inserted: Sequence[tuple[UUID, str | None]]) -> dict[int, Enqueued]:
    """Return the new jobs by their place: of several rows with one key, the first one was inserted."""
    unkeyed = iter([id_ for id_, key in inserted if key is None])
    keyed = {key: id_ for id_, key in inserted if key is not None}
    done = {}
    for place, key in enumerate(keys):
        id_ = next(unkeyed) if key is None else keyed.pop(key, None)
        if id_ is not None:
            done[place] = Enqueued(id_, created=True)
    return done


def _repeats(
    session: Session, valid: ValidJobs, content: Sequence[Mapping[str, Any]], rerun: Sequence[bool]
) -> list[Enqueued]:
    """Return the jobs of rows that were not inserted: their keys were used before or in this call."""
    t = valid.table
    columns = [t.column[name].strip('"') for name in valid.attributes]
    values = {
        "columns": columns,
        "fields": compared_fields(t, valid.attributes),
        "rows": json.dumps(content, allow_nan=False),
        "rerun": list(rerun),
    }
    done = []
    # A separate statement: its snapshot sees the first job even if another session has just committed it.
    for ordinal, id_, created, differs in session.execute(text(repeats_sql(t)), values):
        key = content[ordinal][t.column["idempotency_key"].strip('"')]
        if id_ is None:  # row level security hides its job from this session
            raise EnqueueError(key_taken("that cannot be seen (any more)", key))
        if differs:
            raise EnqueueError(key_taken(f"with another {', '.join(differs)}", key))
        done.append(Enqueued(id_, created=created))
    return done


def key_taken(by: str, key: str) -> Problem:
    return Problem("idempotency_key", f"is taken by a job {by}", quoted(key))


def why_refused(error: BaseException | None, t: JobTable) -> str | Problem:
    """Return why the database refused a row, without quoting the whole row."""
    match error:
        case errors.ForeignKeyViolation() as violation:
            return _why_missing(violation, t)
        case errors.UniqueViolation() as violation:
            return _why_taken(violation, t)
        case errors.CheckViolation() as violation:
            return _why_broken(violation, t)
        case errors.UntranslatableCharacter() | UnicodeEncodeError():
            return NUL
        case psycopg.DataError() if error.sqlstate is None:  # from the driver, which refuses only NUL
            return NUL
        case psycopg.Error() as other:
            return str(other.diag.message_primary)
        case other:
            return type(other).__name__


def _why_missing(violation: psycopg.Error, t: JobTable) -> str | Problem:
    """Return which field refers to a row that does not exist. Postgres does not show values of other owners."""
    found = re.fullmatch(
        r'Key \((\w+)\)=\((.*)\) is not present in table "(.+)"\.', violation.diag.message_detail or "", re.DOTALL
    )
    if found is None:
        return f"a row that it refers to does not exist ({violation.diag.constraint_name})"
    field = t.attribute.get(found[1], found[1])
    return Problem(field, f"must refer to an existing row of {found[3]}", quoted(found[2]))


def _why_taken(violation: psycopg.Error, t: JobTable) -> str | Problem:
    """Return which field must be unique. Postgres does not show values that this session may not see."""
    found = re.fullmatch(r"Key \((.+)\)=\((.*)\) already exists\.", violation.diag.message_detail or "", re.DOTALL)
    if found is None:
        return f"one of its values is taken already ({violation.diag.constraint_name})"
    names = [t.attribute.get(name.strip('"'), name) for name in found[1].split(", ")]
    values = found[2].split(", ")
    # The owner is not shown: it is the caller.
    shown = [(name, value) for name, value in zip(names, values, strict=False) if name != "owner_id"]
    if len(values) != len(names) or len(shown) != 1:
        return f"{' and '.join(name for name in names if name != 'owner_id')} must be new: a job has it already"
    return Problem(shown[0][0], "must be new: a job has it already", quoted(shown[0][1]))


def _why_broken(violation: psycopg.Error, t: JobTable) -> str | Problem:
    """Return which rule of the table or a type the row breaks; the constraint's name is ``ck_<table>_<rule>``."""
    rule = violation.diag.constraint_name
    if rule is None:  # raised by one of our triggers, with a message in words
        return str(violation.diag.message_primary)
    field = rule.removeprefix(f"ck_{t.label.partition('.')[2]}_")
    return Problem(field if field in t.attribute.values() else "payload", f"breaks the rule {rule}")
