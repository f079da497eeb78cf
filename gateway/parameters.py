"""The types of what requests may say: bounded texts, names, numbers and times, bodies, options of jobs.

Bodies are strict: a number is no text, and a text is no number, as the description says.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Path, Request
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    WithJsonSchema,
)

from gateway.job_options import complete_options
from gateway.views import DEFAULT_LIMIT, MAX_LIMIT
from models.lifecycle import PRIORITY_DEFAULT, PRIORITY_FIRST, PRIORITY_LAST
from workers.runtime.bounds import text_problem

MAX_NAME, MAX_REASON, MAX_KEY = 255, 500, 255
# Every time zone can show these, and Postgres can add any window to them.
_FIRST_TIME, _LAST_TIME = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)


def _storable(value: str) -> str:
    if rule := text_problem(value):
        raise ValueError(rule)
    return value


def _sane(value: datetime) -> datetime:
    if not _FIRST_TIME <= value <= _LAST_TIME:
        raise ValueError("must be a time from 1970 to 9999")
    return value


def _require_text(value: Any) -> Any:
    """Refuse a number, also as a text: pydantic would read it as seconds since 1970."""
    if not isinstance(value, str | datetime) or (isinstance(value, str) and "-" not in value[1:]):
        raise ValueError("must be a text in ISO 8601 with a time zone")
    return value


def _plain_number(value: Any) -> Any:
    if isinstance(value, str) and not (value.isascii() and value.removeprefix("-").isdecimal()):
        raise ValueError("must be a whole number")
    return value


def _plain_flag(value: Any) -> Any:
    if isinstance(value, str) and value not in {"true", "false"}:
        raise ValueError("must be true or false")
    return value


Text = Annotated[str, AfterValidator(_storable)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME), AfterValidator(_storable)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=MAX_REASON), AfterValidator(_storable)]
Id = Annotated[UUID, Strict(strict=False)]
Time = Annotated[AwareDatetime, Strict(strict=False), BeforeValidator(_require_text), AfterValidator(_sane)]
# In a query everything is text: blanks or underscores around a number are refused, which pydantic would accept.
Whole = Annotated[int, BeforeValidator(_plain_number)]
Flag = Annotated[bool, BeforeValidator(_plain_flag)]
PathName = Annotated[Name, Path(description="its name")]
RecordType = Literal["task", "feedback"]
RecordCategory = Literal["top_10", "bottom_10"]
# A value that is never quoted. It is checked by the use-case, for pydantic would show what is wrong with it.
Secret = Annotated[Any, WithJsonSchema({"type": "string", "minLength": 1, "writeOnly": True})]
JsonObject = Annotated[dict[str, Any], Field(description="any JSON object")]


class Body(BaseModel):
    """A body: strict, without unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Filters(BaseModel):
    """The query parameters of a route; unknown ones are refused, because a misspelt filter would return everything."""

    model_config = ConfigDict(extra="forbid")


class Paging(Filters):
    """The query parameters of a list."""

    limit: Whole = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="how many items at most")
    cursor: str | None = Field(
        None, max_length=1_000, description="`next` of the page before, with the same filters; unset: the first page"
    )


class Why(Body):
    """Why something is changed; the history shows it."""

    reason: Reason | None = None


def reason_of(body: Why | None) -> str | None:
    """Return the reason of an optional body."""
    return None if body is None else body.reason


class JobOptions(Body):
    """The options of a new job, the same at every door."""

    priority: int = Field(PRIORITY_DEFAULT, ge=PRIORITY_FIRST, le=PRIORITY_LAST, description="1 first … 10 last")
    due_at: Time | None = Field(None, description="not before this time")
    idempotency_key: Annotated[str, StringConstraints(min_length=1, max_length=MAX_KEY)] | None = Field(
        None, description="a repeat returns the first job; also as the header `Idempotency-Key`"
    )
    on_failed: Literal["return", "rerun"] | None = Field(
        None, description="what a repeated key means after its job failed or was cancelled; unset: `return`"
    )
    callback_url: str | None = Field(None, max_length=2_048, description="address that is told when the job ends")

    def given(self, request: Request, key: str | None) -> dict[str, Any]:
        """Return the options that were given, for ``enqueue``; ``key`` is that of the header.

        Raises as :func:`~gateway.job_options.complete_options`.
        """
        names = JobOptions.model_fields.keys()
        options = {name: value for name, value in self.model_dump(exclude_unset=True).items() if name in names}
        complete_options(request, options, key)
        return options
