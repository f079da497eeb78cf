"""Put jobs into their table, in the caller's transaction: few statements, whatever their number. Publishes nothing."""

import json
import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, overload
from uuid import UUID

import psycopg
from psycopg import errors
from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError
from sqlalchemy import text
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from models.lifecycle import PRIORITY_DEFAULT, PRIORITY_FIRST, PRIORITY_LAST
from workers.runtime.bounds import payload_problem, time_problem
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.errors import one_line
from workers.runtime.handler.naming import Name
from workers.runtime.handler.registry import Stage, discover, registry
from workers.runtime.refusals import Problem, Refusal, cut, first_problem, quoted
from workers.runtime.store.bulk import can_copy, copy_in, may_give_ids, new_ids
from workers.runtime.store.tables import JobTable, job_table

ROWS_PER_STATEMENT = 5_000
# From so many on, jobs without keys are copied in: below, the round trips cost more than they save.
ROWS_TO_COPY = 100


class EnqueueError(Refusal, ValueError):
    """The job cannot be enqueued; the message is one line that names the field, the rule and the value.

    Of many jobs, ``position`` is the place of the one that is wrong; the line of any but the first begins with it.
    """

    def __init__(self, said: str | Problem, *, position: int = 0) -> None:
        super().__init__(said)
        self.position = position
        if position:
            self.args = (f"job {position}: {said}",)


@dataclass(frozen=True, slots=True)
class Enqueued:
    """The job that stands for a request: new, or the first one of its idempotency key."""

    id: UUID
    created: bool


def _tellable(time: datetime | None) -> datetime | None:
    """Return ``time`` if the database's clock can show it. A time without an offset is UTC, whatever the session's zone.

    An offset may move a time out of the years that Python has.
    """
    if time is None:
        return None
    if (rule := time_problem(time)) is not None:
        raise ValueError(f"{rule}, got {time.isoformat()!r}")
    return time if time.tzinfo else time.replace(tzinfo=UTC)


class Options(BaseModel):
    """What any door may say of a job beside its payload."""

    priority: int = Field(PRIORITY_DEFAULT, ge=PRIORITY_FIRST, le=PRIORITY_LAST)
    due_at: Annotated[datetime | None, AfterValidator(_tellable)] = None
    idempotency_key: Name | None = None


@overload
def enqueue(session: Session, stage: str, payload: Mapping[str, Any], **options: Any) -> Enqueued: ...
@overload
def enqueue(session: AsyncSession, stage: str, payload: Mapping[str, Any], **options: Any) -> Awaitable[Enqueued]: ...
def enqueue(
    session: Session | AsyncSession, stage: str, payload: Mapping[str, Any], **options: Any
) -> Enqueued | Awaitable[Enqueued]:
    """Enqueue one job in ``session``'s transaction and return its id; with an AsyncSession, await the result.

    Options: ``priority`` (1 first … 10 last), ``due_at`` (None: now), ``idempotency_key`` (a repeat by the same owner
    returns the first job; with another payload it is refused). Nothing happens before the caller commits. Raises
    UnknownStageError and EnqueueError.
    """
    if isinstance(session, AsyncSession):
        return session.run_sync(lambda sync: _enqueue(sync, stage, [_job(payload, options)])[0])
    return _enqueue(session, stage, [_job(payload, options)])[0]


def _job(payload: object, options: Mapping[str, Any]) -> dict[str, Any]:
    return {**_mapping(payload), **options}


def _mapping(payload: object) -> Mapping[str, Any]:
    """Return what some door was given as a payload; what is none is refused as a field would be."""
    if isinstance(payload, Mapping):
        return payload
    raise EnqueueError(Problem("payload", "must be an object", quoted(payload)))


@overload
def enqueue_many(session: Session, stage: str, jobs: Sequence[Mapping[str, Any]]) -> list[Enqueued]: ...
@overload
def enqueue_many(session: AsyncSession, stage: str, jobs: Sequence[Mapping[str, Any]]) -> Awaitable[list[Enqueued]]: ...
def enqueue_many(
    session: Session | AsyncSession, stage: str, jobs: Sequence[Mapping[str, Any]]
) -> list[Enqueued] | Awaitable[list[Enqueued]]:
    """Enqueue many jobs of one stage; each mapping is a payload, with the options of :func:`enqueue` beside it.

    Jobs without keys are copied in, others go in one statement per 5,000. Results come in the order of ``jobs``, and
    so do the ids, but for keyed jobs of a member of ``gristmill_service``. One invalid job refuses all of them, naming
    its position.
    """
    if isinstance(session, AsyncSession):
        return session.run_sync(lambda sync: _enqueue(sync, stage, jobs))
    return _enqueue(session, stage, jobs)


def _enqueue(session: Session, stage_name: str, jobs: Sequence[Mapping[str, Any]]) -> list[Enqueued]:
    # A service that only enqueues has imported no handler yet: the stages are found on the first miss.
    stage = registry[stage_name] if stage_name in registry else discover()[stage_name]
    batch = _validated(stage, jobs)
    failpoint("enqueue.before")
    try:
        done = _put(session, batch)
    except (DataError, IntegrityError) as error:
        _name_problem(jobs)
        raise EnqueueError(_refusal(error.orig, batch.table)) from None
    except (psycopg.DataError, psycopg.IntegrityError, UnicodeEncodeError) as error:  # of COPY, past SQLAlchemy
        _name_problem(jobs)
        raise EnqueueError(_refusal(error, batch.table)) from None
    failpoint("enqueue.after")
    return done


OPTIONS = tuple(Options.model_fields)
DEFAULT_OPTIONS = tuple(Options().model_dump(mode="json").values())
KEY = OPTIONS.index("idempotency_key")


@dataclass(frozen=True, slots=True)
class Batch:
    """Valid jobs of one stage: the values of ``attributes`` of each, its options last."""

    table: JobTable
    attributes: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def keys(self) -> list[str | None]:
        place = len(self.attributes) - len(OPTIONS) + KEY
        return [row[place] for row in self.rows]


def _validated(stage: Stage, jobs: Sequence[Mapping[str, Any]]) -> Batch:
    """Return ``jobs`` as rows, or raise EnqueueError with the first thing wrong about the first wrong one."""
    fields = tuple(stage.payload.model_fields)
    _check_bounds(jobs)
    try:
        payloads, options = _split(stage.payload, jobs)
    except ValidationError:
        for position, job in enumerate(jobs):  # once more one by one: only so the first wrong one is told
            _validate_alone(stage, job, position)
        raise
    except (ValueError, RecursionError) as error:  # pydantic cannot write what it accepted
        _name_problem(jobs)
        raise EnqueueError(f"payload cannot be written as JSON: {cut(one_line(str(error)))}") from None
    rows = [(*(payload[name] for name in fields), *said) for payload, said in zip(payloads, options, strict=True)]
    return Batch(job_table(stage.model), (*fields, *OPTIONS), rows)


def _split(
    payload: type[BaseModel], jobs: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[tuple[Any, ...]]]:
    """Return the payloads and the options of ``jobs``, validated and as JSON has them: all payloads in one go."""
    payloads, options = [], []
    for job in map(_mapping, jobs):
        if job.keys().isdisjoint(OPTIONS):
            payloads.append(job)
            options.append(DEFAULT_OPTIONS)
        else:
            payloads.append({name: value for name, value in job.items() if name not in OPTIONS})
            said = Options.model_validate({name: job[name] for name in OPTIONS if name in job})
            options.append(tuple(said.model_dump(mode="json").values()))
    adapter = _many(payload)
    return adapter.dump_python(adapter.validate_python(payloads), mode="json"), options


# Of these, what a payload may hold is known without a look: text only as long as it is short.
_PLAIN = frozenset({int, bool, UUID, type(None)})
_SHORT = 16_384


def _check_bounds(jobs: Sequence[Mapping[str, Any]]) -> None:
    """Raise EnqueueError for the first job that is too large, too deep or holds what no reader can have.

    What Postgres refuses by itself, a NUL in a short text for instance, is left to it.
    """
    for position, job in enumerate(jobs):
        for value in _mapping(job).values():
            kind = type(value)
            if (len(value) > _SHORT) if kind is str else kind not in _PLAIN:
                _check_alone(job, position)
                break


def _check_alone(job: Mapping[str, Any], position: int) -> None:
    if (problem := payload_problem(job)) is not None:
        raise EnqueueError(problem, position=position)


def _name_problem(jobs: Sequence[Mapping[str, Any]]) -> None:
    """Raise EnqueueError for the first job in which a look at every value finds what is wrong."""
    for position, job in enumerate(jobs):
        _check_alone(job, position)


@cache
def _many(payload: type[BaseModel]) -> TypeAdapter[list[Any]]:
    return TypeAdapter(list[payload])  # type: ignore[valid-type]


def _validate_alone(stage: Stage, job: Mapping[str, Any], position: int) -> None:
    _check_alone(_mapping(job), position)
    try:
        stage.payload.model_validate({name: value for name, value in job.items() if name not in OPTIONS})
        Options.model_validate({name: job[name] for name in OPTIONS if name in job})
    except ValidationError as error:
        raise EnqueueError(payload_problem_of(error), position=position) from None


def payload_problem_of(error: ValidationError) -> Problem:
    """Return the first thing wrong with a payload or its options."""
    return first_problem(error, whole="payload", unknown="is not a field of this stage")


def _put(session: Session, batch: Batch) -> list[Enqueued]:
    """Insert the batch; where the session may choose ids, they ascend in the order of its rows."""
    if not batch.rows:
        return []
    if len(batch.rows) == 1:
        return _insert(session, batch, batch.rows, None)
    keys, connection = batch.keys(), session.connection()
    # A service's role may not choose an id: then the database does, in the order of the keys.
    ids = new_ids(connection, len(keys)) if may_give_ids(connection, batch.table) else None
    if ids and len(ids) >= ROWS_TO_COPY and not any(keys) and can_copy(connection, batch.table, batch.attributes):
        copy_in(connection, batch.table, batch.attributes, ids, batch.rows)
        return [Enqueued(id_, created=True) for id_ in ids]
    # In the order of their keys across all statements: batches that share keys wait for each other in one order, and
    # cannot deadlock.
    order = sorted(range(len(keys)), key=lambda place: keys[place] or "")
    done: dict[int, Enqueued] = {}
    for start in range(0, len(order), ROWS_PER_STATEMENT):
        places = order[start : start + ROWS_PER_STATEMENT]
        given = ids and [ids[place] for place in places]
        part = _insert(session, batch, [batch.rows[place] for place in places], given)
        done.update(zip(places, part, strict=True))
    return [done[place] for place in range(len(keys))]


@cache
def _insert_sql(t: JobTable, attributes: tuple[str, ...]) -> str:
    c = t.column
    # Rows come back as they went in, less those of keys that are taken.
    return f"""
        INSERT INTO {t.name} ({", ".join(c[name] for name in attributes)})
        SELECT {", ".join(f"r.{c[name]}" for name in attributes)}
          FROM jsonb_array_elements(CAST(:rows AS jsonb)) WITH ORDINALITY AS e(job, nth)
         CROSS JOIN LATERAL jsonb_populate_record(NULL::{t.name}, e.job) AS r
         ORDER BY nth
        ON CONFLICT ({c["owner_id"]}, {c["idempotency_key"]}) WHERE {c["idempotency_key"]} IS NOT NULL DO NOTHING
        RETURNING {c["id"]}, {c["idempotency_key"]}"""


@cache
def _first_sql(t: JobTable, attributes: tuple[str, ...]) -> str:
    """Return the statement that finds the first job of each repeated key, and what a repeat asks otherwise."""
    c = t.column
    differs = ", ".join(
        f"CASE WHEN {_differs(t, name)} THEN '{name}' END"
        for name in attributes
        if name not in OPTIONS and name not in t.model.__may_differ__
    )
    schema, _, table = t.label.partition(".")
    return f"""
        SELECT e.nth - 1, j.{c["id"]}, array_remove(ARRAY[{differs}]::text[], NULL)
          FROM jsonb_array_elements(CAST(:rows AS jsonb)) WITH ORDINALITY AS e(job, nth)
         CROSS JOIN LATERAL jsonb_populate_record(NULL::{t.name}, e.job) AS r
          JOIN {t.name} AS j ON j.{c["idempotency_key"]} = r.{c["idempotency_key"]}
                            AND j.{c["owner_id"]} IS NOT DISTINCT FROM {schema}.owner_of_{table}(r)"""


def _differs(t: JobTable, name: str) -> str:
    column = t.column[name]
    if name in t.model.__may_grow__:
        return f"NOT coalesce(j.{column} @> r.{column}, r.{column} IS NULL)"
    return f"j.{column} IS DISTINCT FROM r.{column}"


def _insert(
    session: Session, batch: Batch, rows: Sequence[tuple[Any, ...]], ids: Sequence[UUID] | None
) -> list[Enqueued]:
    """Insert ``rows`` in their order; a key that its owner has used returns the first job, if the same is asked."""
    t, attributes = batch.table, batch.attributes
    columns = [t.column[name].strip('"') for name in attributes]
    content = [dict(zip(columns, row, strict=True)) for row in rows]
    if ids:
        attributes = ("id", *attributes)
        content = [row | {"id": str(id_)} for row, id_ in zip(content, ids, strict=True)]
    keys = [row[len(batch.attributes) - len(OPTIONS) + KEY] for row in rows]
    inserted = session.execute(text(_insert_sql(t, attributes)), {"rows": json.dumps(content, allow_nan=False)}).all()
    if len(inserted) == len(rows):
        return [Enqueued(row[0], created=True) for row in inserted]
    return _with_repeats(session, batch, content, keys, [(row[0], row[1]) for row in inserted])


def _with_repeats(
    session: Session,
    batch: Batch,
    content: Sequence[Mapping[str, Any]],
    keys: Sequence[str | None],
    inserted: Sequence[tuple[UUID, str | None]],
) -> list[Enqueued]:
    """Return the job of each row where some were not inserted: their keys had been used, before or in this batch."""
    unkeyed = iter([id_ for id_, key in inserted if key is None])
    keyed = [place for place, key in enumerate(keys) if key is not None]
    # A statement of its own: its snapshot sees the twin that won the race, whoever committed it.
    found = text(_first_sql(batch.table, batch.attributes))
    rows = session.execute(found, {"rows": json.dumps([content[place] for place in keyed])})
    first = {keyed[nth]: (id_, differs) for nth, id_, differs in rows}
    fresh = {id_ for id_, key in inserted if key is not None}
    done = []
    for place, key in enumerate(keys):
        if key is None:
            done.append(Enqueued(next(unkeyed), created=True))
            continue
        if place not in first:
            # Row level security hides its job from this session, or it was pruned between the two statements.
            raise EnqueueError(_key_taken("that cannot be seen (any more)", key))
        id_, differs = first[place]
        if differs:
            raise EnqueueError(_key_taken(f"with another {', '.join(differs)}", key))
        done.append(Enqueued(id_, created=id_ in fresh))
        fresh.discard(id_)
    return done


def _key_taken(by: str, key: str) -> Problem:
    return Problem("idempotency_key", f"is taken by a job {by}", quoted(key))


def _refusal(error: BaseException | None, t: JobTable) -> str | Problem:
    """Return what the database says of the row without quoting it whole."""
    match error:
        case errors.ForeignKeyViolation() as violation:
            return f"{(violation.diag.message_detail or 'a row it refers to is missing').rstrip('.')}"
        case errors.UniqueViolation() as violation:
            return _taken(violation, t)
        case errors.CheckViolation() as violation:
            return _broken(violation, t)
        case errors.UntranslatableCharacter() | UnicodeEncodeError():
            return NUL
        case psycopg.DataError() if error.sqlstate is None:  # the driver's own: the one text it does not send
            return NUL
        case psycopg.Error() as other:
            return str(other.diag.message_primary)
        case other:
            return type(other).__name__


def _taken(violation: psycopg.Error, t: JobTable) -> str | Problem:
    """Say which field must be unique; what Postgres does not show, this session may not see."""
    found = re.fullmatch(r"Key \((.+)\)=\((.*)\) already exists\.", violation.diag.message_detail or "", re.DOTALL)
    if found is None:
        return f"one of its values is taken already ({violation.diag.constraint_name})"
    names = [t.attribute.get(name.strip('"'), name) for name in found[1].split(", ")]
    values = found[2].split(", ")
    # Whose it is goes without saying.
    told = [(name, value) for name, value in zip(names, values, strict=False) if name != "owner_id"]
    if len(values) != len(names) or len(told) != 1:
        return f"{' and '.join(name for name in names if name != 'owner_id')} must be new: a job has it already"
    return Problem(told[0][0], "must be new: a job has it already", quoted(told[0][1]))


def _broken(violation: psycopg.Error, t: JobTable) -> str | Problem:
    """Say which rule of the table the row breaks, by the rule's name: ``ck_<table>_<rule>``, or a type's own."""
    rule = violation.diag.constraint_name
    if rule is None:  # of a trigger of ours, which says it in words
        return str(violation.diag.message_primary)
    field = rule.removeprefix(f"ck_{t.label.partition('.')[2]}_")
    return Problem(field if field in t.attribute.values() else "payload", f"breaks the rule {rule}")


NUL = "no text may contain a NUL character, which Postgres cannot store"
