"""Convert one assessment of the event-based system into a row of the assessment store. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from workers.runtime.handler.documents import Unkeepable, keepable
from workers.runtime.refusals import quoted

STATES = {
    "pending": "pending",
    "requested": "pending",
    "queued": "pending",
    # Its worker no longer exists, so it is processed again.
    "processing": "pending",
    "running": "pending",
    "completed": "completed",
    "success": "completed",
    "failed": "failed",
    "error": "failed",
    "timeout": "failed",
    "cancelled": "cancelled",
    "canceled": "cancelled",
}
_MAX_ID_CHARACTERS = 255
# Ids contain the creation time, which cannot be before 1970.
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_TIMES = ("created_at", "updated_at", "completed_at", "timestamp")
_READ = frozenset(
    {"assessment_id", "status", "state", "server_name", "assessment_type", "options", "source", "result_data", "result",
     "error_message", "error", *_TIMES}
)  # fmt: skip


class UnusableEntry(ValueError):
    """The entry cannot be imported; the message names field, rule and value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyAssessment:
    """One assessment to write. It satisfies every CHECK of ``assessment_states``."""

    assessment_id: str
    state: str
    request_data: dict[str, Any]
    result_data: dict[str, Any] | None
    error_message: str | None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None


def read_legacy(row: Mapping[str, Any], *, now: datetime) -> LegacyAssessment:
    """Return the assessment in ``row``; raise UnusableEntry if it breaks a rule.

    Names may be those of columns (``server_name``) or of events (``serverName``). A time without a zone is UTC. If an
    ended assessment has no end time, the time of its last update is used.
    """
    fields = _fields(row)
    state = _state(fields.get("status", fields.get("state")))
    created = _time(fields, "created_at") or _time(fields, "timestamp")
    if created is None:
        raise UnusableEntry("created_at is required, got nothing")
    updated = _time(fields, "updated_at") or _time(fields, "completed_at") or created
    completed = None if state == "pending" else _time(fields, "completed_at") or updated
    _in_order(created, updated, completed, now)
    return LegacyAssessment(
        assessment_id=_id(fields.get("assessment_id")),
        state=state,
        request_data=_request(fields),
        result_data=_object(fields, "result_data", "result"),
        error_message=_text(fields.get("error_message", fields.get("error"))),
        created_at=created,
        updated_at=max(updated, created),
        completed_at=completed,
    )


def id_of(row: Mapping[str, Any]) -> str | None:
    """Return the id in ``row`` as it was written, or None if there is no text or number."""
    found = next((value for name, value in row.items() if _snake(name) == "assessment_id"), None)
    return str(found) if isinstance(found, str | int) else None


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the known fields of ``row`` by column name. Its other fields may hold anything."""
    fields = {_snake(name): value for name, value in row.items() if not (value is None or value == "")}
    fields = {name: value for name, value in fields.items() if name in _READ}
    try:
        for name, value in fields.items():
            keepable(value, name=name)
    except Unkeepable as error:
        raise UnusableEntry(str(error)) from None
    return fields


def _request(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request that the seed's migration builds: exactly these five members."""
    return {
        "serverName": _text(fields.get("server_name")),
        "assessmentType": _text(fields.get("assessment_type")),
        "options": _object(fields, "options") or {},
        "timestamp": _text(fields.get("timestamp")),
        "source": _text(fields.get("source")),
    }


def _snake(name: str) -> str:
    name = name.strip()
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name) if name != name.upper() else name


def _id(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise UnusableEntry(f"assessment_id must be text, got {quoted(value)}")
    text = "" if value is None else str(value).strip()
    if not text:
        raise UnusableEntry("assessment_id is required, got nothing")
    if len(text) > _MAX_ID_CHARACTERS:
        raise UnusableEntry(f"assessment_id must have at most {_MAX_ID_CHARACTERS} characters, got {len(text)}")
    return text


def _state(value: object) -> str:
    state = STATES.get(str(value or "").strip().lower())
    if state is None:
        raise UnusableEntry(f"status must be one of {', '.join(STATES)}, got {quoted(value)}")
    return state


def _time(fields: Mapping[str, Any], name: str) -> datetime | None:
    value = fields.get(name)
    if value is None:
        return None
    try:
        time = _as_time(value)
    except (ValueError, OverflowError, OSError):
        rule = "must be a time in ISO 8601 or milliseconds since 1970"
        raise UnusableEntry(f"{name} {rule}, got {quoted(value)}") from None
    if time < _EARLIEST:
        raise UnusableEntry(f"{name} must not lie before 1970, got {quoted(value)}")
    return time


def _as_time(value: object) -> datetime:
    """Return the time in UTC; raise ValueError or OverflowError if ``value`` is not a time."""
    match value:
        case bool():
            raise ValueError("true and false are not times")
        case datetime():
            time = value
        case int() | float() | Decimal():
            return datetime.fromtimestamp(float(value) / 1000, UTC)  # JavaScript writes times in milliseconds
        case _:
            time = datetime.fromisoformat(str(value).strip())
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def _in_order(created: datetime, updated: datetime, completed: datetime | None, now: datetime) -> None:
    for name, time in (("created_at", created), ("updated_at", updated), ("completed_at", completed)):
        if time and time > now:
            raise UnusableEntry(f"{name} must not lie in the future, got {time.isoformat()}")
    if completed and completed < created:
        raise UnusableEntry(f"completed_at must not lie before created_at, got {completed.isoformat()}")


def _object(fields: Mapping[str, Any], *names: str) -> dict[str, Any] | None:
    name = next((name for name in names if name in fields), None)
    if name is None:
        return None
    value = fields[name]
    if isinstance(value, str):
        value = _parsed(value, name)
    if value is None or isinstance(value, dict):
        return value
    return {"value": value}


def _parsed(text: str, name: str) -> Any:
    try:
        value = json.loads(text)
        keepable(value, name=name)
    except Unkeepable as error:
        raise UnusableEntry(str(error)) from None
    except (ValueError, RecursionError):
        raise UnusableEntry(f"{name} must be JSON, got {quoted(text)}") from None
    return value


def _text(value: object) -> str | None:
    match value:
        case None:
            return None
        case datetime():
            return value.isoformat()
        case dict() | list():
            return json.dumps(value, ensure_ascii=False, default=str)
        case _:
            return str(value)
