"""Validate the payloads and options of jobs before they are enqueued. Asks no database."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from models.lifecycle import PRIORITY_DEFAULT, PRIORITY_FIRST, PRIORITY_LAST, Job
from workers.runtime.bounds import payload_problem, time_problem
from workers.runtime.handler.errors import one_line
from workers.runtime.handler.naming import Name
from workers.runtime.handler.registry import Stage
from workers.runtime.refusals import Problem, Refusal, cut, first_problem, quoted
from workers.runtime.store.tables import JobTable, job_table
from workers.runtime.tracing import is_traceparent


class EnqueueError(Refusal, ValueError):
    """The job cannot be enqueued; the message is one line that names the field, the rule and the value.

    ``position`` is the index of the invalid job among many; if it is not 0, the line begins with it. ``is_placed`` is
    False if the database refused one of many jobs and it is not known which.
    """

    def __init__(self, message: str | Problem, *, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position or 0
        self.is_placed = position is not None
        if position:
            self.args = (f"job {position}: {message}",)


def _within_clock_range(time: datetime | None) -> datetime | None:
    """Return ``time`` if the database's clock can show it; a time without an offset is UTC.

    With an offset, a time may be outside the years that Python supports.
    """
    if time is None:
        return None
    if (rule := time_problem(time)) is not None:
        raise ValueError(f"{rule}, got {time.isoformat()!r}")
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _refuse_bool(value: object) -> object:
    """Refuse true and false, which Python would read as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a whole number")  # noqa: TRY004 - pydantic reads it
    return value


class JobOptions(BaseModel):
    """The options of a job beside its payload, at every door, that are columns of its table."""

    priority: Annotated[int, BeforeValidator(_refuse_bool)] = Field(
        PRIORITY_DEFAULT, ge=PRIORITY_FIRST, le=PRIORITY_LAST
    )
    due_at: Annotated[datetime | None, AfterValidator(_within_clock_range)] = None
    idempotency_key: Name | None = None


_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SPAN = re.compile(r"([0-9]{1,9})([smhd])")
MIN_WITHIN, MAX_WITHIN, DEFAULT_WITHIN = timedelta(minutes=5), timedelta(days=7), timedelta(hours=24)


def read_span(value: object) -> timedelta | None:
    """Return a time span: of a timedelta, a number of seconds, or a text like ``24h``."""
    if isinstance(value, str) and (found := _SPAN.fullmatch(value.strip())):
        value = timedelta(**{_UNITS[found[2]]: int(found[1])})
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < 1e9:  # noqa: PLR2004 - a timedelta holds it
        value = timedelta(seconds=value)
    if value is None:
        return None
    if not isinstance(value, timedelta):
        raise ValueError("must be a time span like 90m, 24h or 2d, or a number of seconds")  # noqa: TRY004 - pydantic reads it
    if not MIN_WITHIN <= value <= MAX_WITHIN:
        raise ValueError("must be from 5 minutes to 7 days")
    return value


class LaneOptions(BaseModel):
    """The options that say in which lane language models answer a job, at every door.

    In the batch lane an answer costs half and may take as long as ``within`` says.
    """

    lane: Literal["normal", "batch"] | None = None
    within: Annotated[timedelta | None, BeforeValidator(read_span)] = None

    @field_validator("within")
    @classmethod
    def _needs_the_batch_lane(cls, within: timedelta | None, asked: ValidationInfo) -> timedelta | None:
        if within is not None and asked.data.get("lane") != "batch":
            raise ValueError("is for the batch lane: give lane='batch' with it")
        return within

    @property
    def batch_within(self) -> timedelta | None:
        """How long an answer may take; None in the normal lane."""
        return (self.within or DEFAULT_WITHIN) if self.lane == "batch" else None


_CALLBACK = re.compile(r"https?://[^\s\x00-\x1f\x7f]+", re.IGNORECASE)
MAX_CALLBACK_CHARACTERS = 2048


def _is_traceparent(value: str | None) -> str | None:
    if value is not None and not is_traceparent(value):
        raise ValueError("must be a W3C trace context like 00-<32 hex digits>-<16 hex digits>-01")
    return value


def _is_callback(value: str | None) -> str | None:
    """Return ``value`` if it is a web address. The message does not quote it: it may contain a secret."""
    if value is None:
        return None
    if not _CALLBACK.fullmatch(value):
        raise ValueError("must be a web address that begins with https:// or http:// and has no spaces")
    if len(value) > MAX_CALLBACK_CHARACTERS:
        raise ValueError(f"must have at most {MAX_CALLBACK_CHARACTERS} characters")
    return value


class FollowOptions(BaseModel):
    """The options of a job that say who follows it, at every door: columns of its table, mostly null.

    ``callback_url`` is told of the job's end. ``traceparent`` is the caller's trace.
    """

    callback_url: Annotated[str | None, AfterValidator(_is_callback)] = None
    traceparent: Annotated[str | None, AfterValidator(_is_traceparent)] = None


class RepeatOptions(BaseModel):
    """The option that says what a repeated key means after its job ended without success, at every door.

    ``return`` returns the first job. ``rerun`` makes a new job, which takes the key from the first one; if the first
    job has not ended or completed, it is returned as always.
    """

    on_failed: Literal["return", "rerun"] | None = None


OPTIONS = tuple(JobOptions.model_fields)
FOLLOW_OPTIONS = tuple(FollowOptions.model_fields)
LANE_OPTIONS = tuple(LaneOptions.model_fields)
REPEAT_OPTIONS = tuple(RepeatOptions.model_fields)
ALL_OPTIONS = frozenset((*OPTIONS, *FOLLOW_OPTIONS, *LANE_OPTIONS, *REPEAT_OPTIONS))
# A repeat may have others of these.
MAY_DIFFER = frozenset((*OPTIONS, *FOLLOW_OPTIONS))
DEFAULT_OPTIONS = tuple(JobOptions().model_dump(mode="json").values())
KEY_INDEX = OPTIONS.index("idempotency_key")


@dataclass(frozen=True, slots=True)
class ValidJobs:
    """Valid jobs of one stage: one row per job with the values of ``attributes``, the options last.

    The options of :class:`FollowOptions` are among them only if a job has one.
    ``batch_within`` has the jobs of the batch lane, by their place: how long their answers may take. ``rerun`` has the
    places of the jobs that may take their key from a job that ended without success.
    """

    table: JobTable
    attributes: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    batch_within: Mapping[int, timedelta]
    rerun: frozenset[int] = frozenset()

    def keys(self) -> list[str | None]:
        """Return the idempotency key of each row."""
        place = len(self.attributes) - len(OPTIONS) + KEY_INDEX
        return [row[place] for row in self.rows]


def payload_mapping(payload: object) -> Mapping[str, Any]:
    """Return ``payload`` if it is a mapping; else raise EnqueueError, like for a wrong field."""
    if isinstance(payload, Mapping):
        return payload
    raise EnqueueError(Problem("payload", "must be an object", quoted(payload)))


def validate_jobs(stage: Stage, jobs: Sequence[Mapping[str, Any]], *, traceparent: str | None = None) -> ValidJobs:
    """Return ``jobs`` as rows, or raise EnqueueError with the first problem of the first invalid job.

    ``traceparent`` is that of the jobs which name none.
    """
    fields = tuple(stage.payload.model_fields)
    _check_bounds(jobs)
    try:
        split = _split(stage.payload, jobs)
    except ValidationError:
        for position, job in enumerate(jobs):  # validate them one by one to find the first invalid job
            _validate_alone(stage, job, position)
        raise
    except (ValueError, RecursionError) as error:  # pydantic cannot write a value that it accepted
        raise_first_problem(jobs)
        raise EnqueueError(f"payload cannot be written as JSON: {cut(one_line(str(error)))}") from None
    rows = [
        (*(payload[name] for name in fields), *option)
        for payload, option in zip(split.payloads, split.options, strict=True)
    ]
    attributes = (*fields, *OPTIONS)
    if split.follow or traceparent is not None:
        at, attributes, follow = len(fields), (*fields, *FOLLOW_OPTIONS, *OPTIONS), split.follow
        rows = [(*row[:at], *_followed(follow.get(place), traceparent), *row[at:]) for place, row in enumerate(rows)]
    return ValidJobs(job_table(stage.model), attributes, rows, split.lanes, frozenset(split.rerun))


def _followed(given: FollowOptions | None, traceparent: str | None) -> tuple[str | None, str | None]:
    """Return the values of the columns of :class:`FollowOptions`."""
    return (None, traceparent) if given is None else (given.callback_url, given.traceparent or traceparent)


class _Split(NamedTuple):
    """Jobs as payloads and options; ``follow``, ``lanes`` and ``rerun`` have only the places of jobs that name them."""

    payloads: list[dict[str, Any]]
    options: list[tuple[Any, ...]]
    follow: dict[int, FollowOptions]
    lanes: dict[int, timedelta]
    rerun: list[int]


def _split(payload: type[BaseModel], jobs: Sequence[Mapping[str, Any]]) -> _Split:
    """Return the payloads and the options of ``jobs``, validated and as JSON values; all payloads in one call."""
    payloads: list[Mapping[str, Any]] = []
    options, follow, lanes, rerun = [], {}, {}, []
    for place, job in enumerate(map(payload_mapping, jobs)):
        if job.keys().isdisjoint(ALL_OPTIONS):
            payloads.append(job)
            options.append(DEFAULT_OPTIONS)
        else:
            payloads.append({name: value for name, value in job.items() if name not in ALL_OPTIONS})
            given = JobOptions.model_validate({name: job[name] for name in OPTIONS if name in job})
            options.append(tuple(given.model_dump(mode="json").values()))
            if not job.keys().isdisjoint(FOLLOW_OPTIONS):
                follow[place] = _follow_of(job)
            if (within := _lane_of(job).batch_within) is not None:
                lanes[place] = within
            if "on_failed" in job and _repeat_of(job).on_failed == "rerun":
                rerun.append(place)
    adapter = _adapter_of_many(payload)
    return _Split(adapter.dump_python(adapter.validate_python(payloads), mode="json"), options, follow, lanes, rerun)


def _follow_of(job: Mapping[str, Any]) -> FollowOptions:
    return FollowOptions.model_validate({name: job[name] for name in FOLLOW_OPTIONS if name in job})


def _lane_of(job: Mapping[str, Any]) -> LaneOptions:
    return LaneOptions.model_validate({name: job[name] for name in LANE_OPTIONS if name in job})


def _repeat_of(job: Mapping[str, Any]) -> RepeatOptions:
    return RepeatOptions.model_validate({name: job[name] for name in REPEAT_OPTIONS if name in job})


# Values of these types are within all bounds; text only if it is short.
_PLAIN = frozenset({int, bool, UUID, type(None)})
_SHORT = 16_384


def _check_bounds(jobs: Sequence[Mapping[str, Any]]) -> None:
    """Raise EnqueueError for the first job that is too large, too deep or has a value that JSON readers refuse.

    What Postgres refuses itself, for example a NUL in a short text, is not checked here.
    """
    for position, job in enumerate(jobs):
        for value in payload_mapping(job).values():
            kind = type(value)
            if (len(value) > _SHORT) if kind is str else kind not in _PLAIN:
                _check_payload_bounds(job, position)
                break


def _check_payload_bounds(job: Mapping[str, Any], position: int) -> None:
    if (problem := payload_problem(job)) is not None:
        raise EnqueueError(problem, position=position)


def raise_first_problem(jobs: Sequence[Mapping[str, Any]]) -> None:
    """Raise EnqueueError for the first job with an invalid value; check every value."""
    for position, job in enumerate(jobs):
        _check_payload_bounds(job, position)


@cache
def _adapter_of_many(payload: type[BaseModel]) -> TypeAdapter[list[Any]]:
    return TypeAdapter(list[payload])  # type: ignore[valid-type]


def _validate_alone(stage: Stage, job: Mapping[str, Any], position: int) -> None:
    _check_payload_bounds(payload_mapping(job), position)
    try:
        stage.payload.model_validate({name: value for name, value in job.items() if name not in ALL_OPTIONS})
        JobOptions.model_validate({name: job[name] for name in OPTIONS if name in job})
        _follow_of(job)
        _lane_of(job)
        _repeat_of(job)
    except ValidationError as error:
        raise EnqueueError(payload_problem_of(error), position=position) from None


def row_problem(stage: Stage, job: Job) -> Problem | None:
    """Return the first problem of the payload of a job that was perhaps enqueued in SQL; None if it has none.

    SQL checks only a part of the rules (``workers.runtime.handler.sql_door``).
    """
    payload = {name: value for name in stage.payload.model_fields if (value := getattr(job, name)) is not None}
    try:
        stage.payload.model_validate(payload)
    except ValidationError as error:
        return payload_problem_of(error)
    return None


def payload_problem_of(error: ValidationError) -> Problem:
    """Return the first problem of a payload or its options."""
    problem = first_problem(error, whole="payload", unknown="is not a field of this stage")
    if problem.field == "callback_url":  # it may contain a secret
        return Problem(problem.field, problem.rule, "another value")
    return problem
