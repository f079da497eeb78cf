"""What a client sends to enqueue a job: checked here only for its shape; the rules are those of all doors."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema

from gateway.job_items import BrokenItem
from gateway.job_options import RequestError
from workers.runtime.enqueue_validation import (
    ALL_OPTIONS,
    MAX_WITHIN,
    MIN_WITHIN,
    EnqueueError,
    FollowOptions,
    JobOptions,
    LaneOptions,
    RepeatOptions,
    read_span,
)
from workers.runtime.handler.registry import UnknownStageError
from workers.runtime.refusals import Problem, Refusal, quoted

# The longest name of a stage.
MAX_STAGE_CHARACTERS = 100
_SPAN = {
    "anyOf": [
        {"type": "string", "pattern": "^[0-9]{1,9}[smhd]$", "examples": ["24h"]},
        {"type": "number", "minimum": MIN_WITHIN.total_seconds(), "maximum": MAX_WITHIN.total_seconds()},
        {"type": "null"},
    ]
}


class JobRequest(JobOptions, FollowOptions, LaneOptions, RepeatOptions):
    """A job to enqueue: its stage, the payload of that stage, and options."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "stage": "scoring.score",
                    "payload": {"profile_id": "01980000-0000-7000-8000-000000000000", "prompt": "Is this a good fit?"},
                    "idempotency_key": "fit:7",
                }
            ]
        },
    )

    stage: str = Field(min_length=1, max_length=MAX_STAGE_CHARACTERS, examples=["scoring.score"])
    payload: dict[str, Any] = Field(description="what the stage needs; `GET /v1/stages` lists the stages")
    within: Annotated[timedelta | None, BeforeValidator(read_span), WithJsonSchema(_SPAN)] = Field(
        None, description="for the batch lane: how long an answer may take"
    )

    def job(self) -> dict[str, Any]:
        """Return the payload with the options that were given beside it; raise RequestError."""
        options = {name: getattr(self, name) for name in self.model_fields_set if name not in _OWN}
        return with_options(self.payload, options)


_OWN = frozenset({"stage", "payload"})
_FIELDS = _OWN | ALL_OPTIONS


def job_in(item: object) -> tuple[str, dict[str, Any]]:
    """Return the stage and the job of one item of a batch; raise RequestError. Options are checked at the enqueue."""
    if isinstance(item, BrokenItem):
        raise RequestError(Problem("job", item.rule))
    if not isinstance(item, dict):
        raise RequestError(Problem("job", "must be an object", quoted(item)))
    if unknown := item.keys() - _FIELDS:
        name = min(unknown)
        raise RequestError(Problem(name, "is not a field", quoted(item[name])))
    stage, payload = item.get("stage"), item.get("payload")
    if not isinstance(stage, str):
        raise RequestError(Problem("stage", "must be a text" if "stage" in item else "is required", quoted(stage)))
    if not isinstance(payload, dict):
        rule = "must be an object" if "payload" in item else "is required"
        raise RequestError(Problem("payload", rule, quoted(payload)))
    return stage, with_options(payload, {name: value for name, value in item.items() if name not in _OWN})


def with_options(payload: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a payload with the options beside it; refuse an option inside the payload."""
    if not payload.keys().isdisjoint(ALL_OPTIONS):
        name = min(payload.keys() & ALL_OPTIONS)
        raise RequestError(
            Problem(
                f"payload.{name}", "is not a field of a payload", None, f"it is an option: put {name} beside payload"
            )
        )
    return {**payload, **options}


def in_request(error: Refusal, *, place: int | None = None) -> Refusal:
    """Return the refusal of an enqueue with the field as the request has it: ``payload.prompt``.

    ``place`` is the place of the job among many.
    """
    problem = error.problem
    if not isinstance(error, EnqueueError | UnknownStageError):
        return error
    before = "" if place is None else f"{place}."
    if problem is None:
        line = str(error).partition(": ")[2] if getattr(error, "position", 0) else str(error)
        return EnqueueError(line if place is None else f"job {place}: {line}")
    is_ours = isinstance(error, RequestError) or problem.field in _FIELDS
    field = problem.field if is_ours else f"payload.{problem.field}"
    return EnqueueError(problem._replace(field=f"{before}{field}"))
