"""Put jobs into their table, in the caller's transaction: one statement, whatever their number. Publishes nothing."""

import json
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, overload
from uuid import UUID

from psycopg import errors
from pydantic import BaseModel, Field, ValidationError
from sqlalchemy import text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from models.lifecycle import PRIORITY_DEFAULT, PRIORITY_FIRST, PRIORITY_LAST
from workers.runtime.registry import Stage, discover, registry
from workers.runtime.store.tables import JobTable, job_table

ROWS_PER_STATEMENT = 5_000


class EnqueueError(ValueError):
    """The job cannot be enqueued; the message is one line that names the field, the rule and the value."""


@dataclass(frozen=True, slots=True)
class Enqueued:
    """The job that stands for a request: new, or the first one of its idempotency key."""

    id: UUID
    created: bool


class Options(BaseModel):
    """What any door may say of a job beside its payload."""

    priority: int = Field(PRIORITY_DEFAULT, ge=PRIORITY_FIRST, le=PRIORITY_LAST)
    due_at: datetime | None = None
    idempotency_key: str | None = Field(None, min_length=1, max_length=255)


@overload
def enqueue(session: Session, stage: str, payload: Mapping[str, Any], **options: Any) -> Enqueued: ...
@overload
def enqueue(session: AsyncSession, stage: str, payload: Mapping[str, Any], **options: Any) -> Awaitable[Enqueued]: ...
def enqueue(
    session: Session | AsyncSession, stage: str, payload: Mapping[str, Any], **options: Any
) -> Enqueued | Awaitable[Enqueued]:
    """Enqueue one job in ``session``'s transaction and return its id; with an AsyncSession, await the result.

    Options: ``priority`` (1 first … 10 last), ``due_at`` (None: now), ``idempotency_key`` (a repeat returns the first
    job). Nothing happens before the caller commits. Raises UnknownStageError and EnqueueError.
    """
    if isinstance(session, AsyncSession):
        return session.run_sync(lambda sync: _enqueue(sync, stage, [{**payload, **options}])[0])
    return _enqueue(session, stage, [{**payload, **options}])[0]


@overload
def enqueue_many(session: Session, stage: str, jobs: Sequence[Mapping[str, Any]]) -> list[Enqueued]: ...
@overload
def enqueue_many(session: AsyncSession, stage: str, jobs: Sequence[Mapping[str, Any]]) -> Awaitable[list[Enqueued]]: ...
def enqueue_many(
    session: Session | AsyncSession, stage: str, jobs: Sequence[Mapping[str, Any]]
) -> list[Enqueued] | Awaitable[list[Enqueued]]:
    """Enqueue many jobs of one stage; each mapping is a payload, with the options of :func:`enqueue` beside it.

    One statement per 5,000 jobs. Results come in the order of ``jobs``. One invalid job refuses all of them, naming
    its position.
    """
    if isinstance(session, AsyncSession):
        return session.run_sync(lambda sync: _enqueue(sync, stage, jobs))
    return _enqueue(session, stage, jobs)


def _enqueue(session: Session, stage_name: str, jobs: Sequence[Mapping[str, Any]]) -> list[Enqueued]:
    # A service that only enqueues has imported no handler yet: the stages are found on the first miss.
    stage = registry[stage_name] if stage_name in registry else discover()[stage_name]
    rows = [_validated(stage, job, position) for position, job in enumerate(jobs)]
    done: list[Enqueued] = []
    for start in range(0, len(rows), ROWS_PER_STATEMENT):
        done += _insert(session, stage, rows[start : start + ROWS_PER_STATEMENT])
    return done


def _validated(stage: Stage, job: Mapping[str, Any], position: int) -> dict[str, Any]:
    """Return the row of ``job`` as columns, or raise EnqueueError with the first thing wrong about it."""
    options = {name: value for name, value in job.items() if name in Options.model_fields}
    payload = {name: value for name, value in job.items() if name not in options}
    try:
        row = {
            **stage.payload.model_validate(payload).model_dump(mode="json"),
            **Options.model_validate(options).model_dump(mode="json"),
        }
    except ValidationError as error:
        where = f"job {position}: " if position else ""
        raise EnqueueError(where + first_line(error)) from None
    column = job_table(stage.model).column
    return {column[name].strip('"'): value for name, value in row.items()}


def first_line(error: ValidationError) -> str:
    """Return the first thing wrong, as ``field rule, got value``; values are cut short."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "payload"
    if first["type"] == "missing":
        return f"{field} is required"
    if first["type"] == "extra_forbidden":
        return f"{field} is not a field of this stage"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("String ")
    value = "" if ", got " in message else f", got {_cut(repr(first['input']))}"
    return f"{field} {message[:1].lower()}{message[1:]}{value}"


def _cut(value: str, limit: int = 80) -> str:
    return value if len(value) <= limit else value[: limit - 1] + "…"


@cache
def _insert_sql(t: JobTable, columns: tuple[str, ...]) -> str:
    names = ", ".join(f'"{name}"' for name in columns)
    values = ", ".join(f'r."{name}"' for name in columns)
    c = t.column
    # Inserted by key, so that two batches that share keys wait for each other in one order and cannot deadlock.
    return f"""
        WITH input AS MATERIALIZED (
          SELECT uuidv7() AS new_id, e.nth, {values}
            FROM jsonb_array_elements(CAST(:rows AS jsonb)) WITH ORDINALITY AS e(job, nth)
           CROSS JOIN LATERAL jsonb_populate_record(NULL::{t.name}, e.job) AS r),
        inserted AS (
          INSERT INTO {t.name} ({c["id"]}, {names}) SELECT new_id, {names} FROM input
           ORDER BY {c["idempotency_key"]}, nth
          ON CONFLICT ({c["idempotency_key"]}) WHERE {c["idempotency_key"]} IS NOT NULL DO NOTHING
          RETURNING {c["id"]} AS id)
        SELECT inserted.id, input.{c["idempotency_key"]} FROM input LEFT JOIN inserted ON inserted.id = input.new_id
         ORDER BY nth"""


def _insert(session: Session, stage: Stage, rows: Sequence[dict[str, Any]]) -> list[Enqueued]:
    t = job_table(stage.model)
    sql = _insert_sql(t, tuple(sorted(rows[0])))
    try:
        inserted = session.execute(text(sql), {"rows": json.dumps(rows)}).all()
    except (DataError, IntegrityError) as error:
        raise EnqueueError(_refusal(error)) from None
    repeated = [key for id_, key in inserted if id_ is None]
    first: dict[str, UUID] = {}
    if repeated:
        # A statement of its own: its snapshot sees the twin that won the race, whoever committed it.
        found = text(
            f"SELECT {t.column['idempotency_key']}, {t.column['id']} FROM {t.name} "
            f"WHERE {t.column['idempotency_key']} = ANY (:keys)"
        )
        first = {row[0]: row[1] for row in session.execute(found, {"keys": repeated})}
    return [Enqueued(id_ or first[key], id_ is not None) for id_, key in inserted]


def _refusal(error: DBAPIError) -> str:
    """Return what the database says of the row without quoting it whole."""
    match error.orig:
        case errors.ForeignKeyViolation() as violation:
            return f"{(violation.diag.message_detail or 'a row it refers to is missing').rstrip('.')}"
        case errors.UntranslatableCharacter():
            return "no text may contain a NUL character, which Postgres cannot store"
        case errors.Error() as other:
            return str(other.diag.message_primary)
        case other:
            return type(other).__name__
