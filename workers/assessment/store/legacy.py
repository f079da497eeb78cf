"""Read one assessment of the event-based system. Pure: a row as it was kept there becomes a row as it is kept here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from workers.runtime.wording import quoted

STATES = {
    "pending": "pending",
    "requested": "pending",
    "queued": "pending",
    # Whoever was processing it went with the event system: it is to be done again.
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
_ID_LENGTH = 255


class Unusable(ValueError):
    """The row cannot be taken; the message says which field breaks which rule, with the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """One assessment to be written: it satisfies every CHECK of ``assessment_states``."""

    assessment_id: str
    state: str
    request_data: dict[str, Any]
    result_data: dict[str, Any] | None
    error_message: str | None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None


def read(row: Mapping[str, Any], *, now: datetime) -> Imported:
    """Return what ``row`` says, or raise Unusable.

    Names may be written as columns (``server_name``) or as in events (``serverName``). A time without a zone is UTC.
    An ending without a time of its own ended when the row was last updated.
    """
    fields = {_snake(name): value for name, value in row.items() if value not in (None, "")}
    state = _state(fields.get("status", fields.get("state")))
    created = _time(fields, "created_at") or _time(fields, "timestamp")
    if created is None:
        raise Unusable("created_at is required, got nothing")
    updated = _time(fields, "updated_at") or _time(fields, "completed_at") or created
    completed = None if state == "pending" else _time(fields, "completed_at") or updated
    _in_order(created, completed, now)
    return Imported(
        assessment_id=_id(fields.get("assessment_id")),
        state=state,
        request_data=_request(fields),
        result_data=_object(fields, "result_data", "result"),
        error_message=_text(fields.get("error_message", fields.get("error"))),
        created_at=created,
        updated_at=max(updated, created),
        completed_at=completed,
    )


def _request(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request that the seed's migration builds: these five members and no other."""
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
    text = str(value or "").strip()
    if not text:
        raise Unusable("assessment_id is required, got nothing")
    if len(text) > _ID_LENGTH:
        raise Unusable(f"assessment_id must have at most {_ID_LENGTH} characters, got {len(text)}")
    return text


def _state(value: object) -> str:
    state = STATES.get(str(value or "").strip().lower())
    if state is None:
        raise Unusable(f"status must be one of {', '.join(STATES)}, got {quoted(value)}")
    return state


def _time(fields: Mapping[str, Any], name: str) -> datetime | None:
    value = fields.get(name)
    try:
        match value:
            case None:
                return None
            case datetime():
                time = value
            case int() | float():
                time = datetime.fromtimestamp(value / 1000, UTC)  # JavaScript's, in milliseconds
            case _:
                time = datetime.fromisoformat(str(value).strip())
    except (ValueError, OverflowError, OSError):
        raise Unusable(f"{name} must be a time in ISO 8601 or milliseconds since 1970, got {quoted(value)}") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _in_order(created: datetime, completed: datetime | None, now: datetime) -> None:
    if created > now:
        raise Unusable(f"created_at must not lie in the future, got {created.isoformat()}")
    if completed and completed > now:
        raise Unusable(f"completed_at must not lie in the future, got {completed.isoformat()}")
    if completed and completed < created:
        raise Unusable(f"completed_at must not lie before created_at, got {completed.isoformat()}")


def _object(fields: Mapping[str, Any], *names: str) -> dict[str, Any] | None:
    name = next((name for name in names if name in fields), None)
    if name is None:
        return None
    value = fields[name]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Unusable(f"{name} must be JSON, got {quoted(fields[name])}") from None
    if value is None or isinstance(value, dict):
        return value
    return {"value": value}


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
