"""What the test gateway checks of a job: the rules of the real one for options, keys and payloads."""

import math
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic import ValidationInfo as Info

from gristmill_client.errors import FieldError
from gristmill_client.testing.problems import Problem, invalid

MAX_JOBS = 100_000
MAX_PAYLOAD_BYTES = 1024 * 1024
_SPAN = re.compile(r"([0-9]{1,9})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_CALLBACK = re.compile(r"https?://[^\s\x00-\x1f\x7f]+", re.IGNORECASE)
_SHOULD = re.compile(r"^(?:[\w' ]+ )?should ")


def _visible(value: str) -> str:
    if not value.isprintable() or value != value.strip():
        raise ValueError("must have visible characters and no blank at either end")
    return value


def _whole(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a whole number")  # noqa: TRY004 - pydantic reads it
    return value


def _span(value: object) -> timedelta | None:
    if isinstance(value, str) and (found := _SPAN.fullmatch(value.strip())):
        value = timedelta(**{_UNITS[found[2]]: int(found[1])})
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < 1e9:  # noqa: PLR2004 - a timedelta holds it
        value = timedelta(seconds=value)
    if value is None:
        return None
    if not isinstance(value, timedelta):
        raise ValueError("must be a time span like 90m, 24h or 2d, or a number of seconds")  # noqa: TRY004 - pydantic reads it
    if not timedelta(minutes=5) <= value <= timedelta(days=7):
        raise ValueError("must be from 5 minutes to 7 days")
    return value


def _trace(value: str | None) -> str | None:
    if value is not None and not _TRACEPARENT.fullmatch(value):
        raise ValueError("must be a W3C trace context like 00-<32 hex digits>-<16 hex digits>-01")
    return value


def _address(value: str | None) -> str | None:
    if value is not None and not _CALLBACK.fullmatch(value):
        raise ValueError("must be a web address that begins with https:// or http:// and has no spaces")
    return value


class JobRequest(BaseModel):
    """A job as a request has it."""

    model_config = ConfigDict(extra="forbid")

    stage: str = Field(min_length=1, max_length=100)
    payload: dict[str, Any]
    priority: Annotated[int, BeforeValidator(_whole)] = Field(5, ge=1, le=10)
    due_at: datetime | None = None
    idempotency_key: Annotated[str, AfterValidator(_visible)] | None = Field(None, min_length=1, max_length=255)
    on_failed: Literal["return", "rerun"] | None = None
    lane: Literal["normal", "batch"] | None = None
    within: Annotated[timedelta | None, BeforeValidator(_span)] = None
    callback_url: Annotated[str | None, AfterValidator(_address)] = Field(None, max_length=2_048)
    traceparent: Annotated[str | None, AfterValidator(_trace)] = None

    @field_validator("within")
    @classmethod
    def _needs_the_batch_lane(cls, within: timedelta | None, asked: Info) -> timedelta | None:
        if within is not None and asked.data.get("lane") != "batch":
            raise ValueError("is for the batch lane: give lane='batch' with it")
        return within


OPTIONS = frozenset(JobRequest.model_fields) - {"stage", "payload"}


def read_job(value: object, *, place: int | None = None) -> JobRequest:
    """Return the job of a request, or of the item at ``place`` of a batch; raise Problem."""
    if not isinstance(value, dict):
        raise invalid(_at("job", place), "must be an object", value)
    try:
        job = JobRequest.model_validate(value)
    except ValidationError as error:
        raise Problem("invalid", errors=_errors_of(error, prefix="" if place is None else f"{place}.")) from None
    for name in sorted(OPTIONS & job.payload.keys()):
        remedy = f"it is an option: put {name} beside payload"
        raise invalid(_at(f"payload.{name}", place), "is not a field of a payload", None, remedy)
    return job


def read_payload(model: type[BaseModel] | None, payload: Mapping[str, Any], *, place: int | None) -> dict[str, Any]:
    """Return a payload as the stage's model reads it; as it is if the stage has none. Raise Problem."""
    if model is None:
        return dict(payload)
    try:
        return model.model_validate(payload).model_dump(mode="json")
    except ValidationError as error:
        raise Problem("invalid", errors=_errors_of(error, prefix=_at("payload.", place))) from None


def _at(field: str, place: int | None) -> str:
    return field if place is None else f"{place}.{field}"


def _errors_of(error: ValidationError, *, prefix: str) -> list[FieldError]:
    return [_error_of(one, prefix) for one in error.errors(include_url=False)]


def _error_of(one: Any, prefix: str) -> FieldError:
    field = prefix + ".".join(map(str, one["loc"]))
    if one["type"] == "missing":
        return FieldError(field, "is required", "nothing")
    value = repr(one["input"])[:80]
    if one["type"] == "extra_forbidden":
        return FieldError(field, "is not a field", value)
    if field.endswith("callback_url"):  # it may contain a secret
        value = "another value"
    return FieldError(field, _rule_of(one["msg"]), value)


def _rule_of(message: str) -> str:
    """Return a message of pydantic as a rule that follows the name of a field."""
    rule = message.removeprefix("Value error, ")
    rule = f"{rule[:1].lower()}{rule[1:]}"
    if message.startswith("Value error, "):
        return rule
    rule = _SHOULD.sub("must ", rule, count=1)
    return rule if rule.startswith(("must ", "is ")) else f"must be valid: {rule}"
