"""The rules of a schedule, for beat and for every door."""

import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from workers.runtime.beat.cron import ScheduleError, check_cron
from workers.runtime.beat.maintenance import ACTIONS
from workers.runtime.enqueue_validation import EnqueueError, payload_problem_of
from workers.runtime.handler.errors import describe
from workers.runtime.handler.registry import Registry, UnknownStageError
from workers.runtime.refusals import Problem, quoted
from workers.runtime.store.schedules import ScheduleRow

CATCH_UP = ("skip", "one", "all")
MAX_SCHEDULE_NAME_CHARACTERS = 100
MAX_SCHEDULE_PAYLOAD_BYTES = 262_144
# Unicode categories of control characters, direction marks, zero-width spaces and code points that are no characters.
_INVISIBLE = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"}


def plain_name(name: str) -> str:
    """Return ``name`` in Unicode normal form C; raise ScheduleError if a person cannot see or type it."""
    plain = unicodedata.normalize("NFC", name)
    if not plain.strip():
        raise ScheduleError(Problem("name", "must not be blank", quoted(name)))
    if plain != plain.strip():
        raise ScheduleError(Problem("name", "must not begin or end with a blank", quoted(name)))
    if len(plain) > MAX_SCHEDULE_NAME_CHARACTERS:
        rule = f"must have at most {MAX_SCHEDULE_NAME_CHARACTERS} characters"
        raise ScheduleError(Problem("name", rule, str(len(plain))))
    if any(unicodedata.category(character) in _INVISIBLE for character in plain):
        raise ScheduleError(Problem("name", "must not contain control characters", quoted(name)))
    return plain


def read_payload(text: str) -> dict[str, Any]:
    """Return a stored payload; raise ScheduleError if it cannot be parsed."""
    try:
        payload = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]
        raise ScheduleError(f"payload cannot be read: {reason}") from None
    if not isinstance(payload, dict):
        raise ScheduleError(Problem("payload", "must be an object", quoted(payload)))
    return payload


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"the number {number[:20]} is too large")
    return value


def check_payload(registry: Registry, stage: str, payload: Mapping[str, Any]) -> None:
    """Raise EnqueueError or UnknownStageError unless ``stage`` accepts ``payload``."""
    model = registry[stage].payload
    try:
        model.model_validate(dict(payload))
        size = len(json.dumps(dict(payload), allow_nan=False).encode())
    except ValidationError as error:
        raise EnqueueError(f"payload: {payload_problem_of(error)}") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise EnqueueError(f"payload must be JSON: {describe(error)}") from None
    if size > MAX_SCHEDULE_PAYLOAD_BYTES:
        raise EnqueueError(f"payload must have at most {MAX_SCHEDULE_PAYLOAD_BYTES:,} bytes, got {size:,}")


def check_work(registry: Registry, row: ScheduleRow) -> dict[str, Any]:
    """Return the payload of a stored schedule; raise if its cron, time zone, payload, stage or action is invalid."""
    check_cron(row.cron, row.timezone)
    payload = read_payload(row.payload)
    if row.action is not None:
        check_action(row.action)
    elif row.stage is not None:
        check_payload(registry, row.stage, payload)
    return payload


def check_action(action: str) -> None:
    """Raise ScheduleError if maintenance has no such action."""
    if action not in ACTIONS:
        raise ScheduleError(Problem("action", f"must be one of {', '.join(ACTIONS)}", quoted(action)))


def refusal_of_schedule(registry: Registry, row: ScheduleRow) -> str | None:
    """Return why a schedule cannot do its work: the problem found now, else the one of its last tick; None if none."""
    try:
        check_work(registry, row)
    except (ScheduleError, EnqueueError, UnknownStageError) as error:
        return str(error)
    return row.refusal
