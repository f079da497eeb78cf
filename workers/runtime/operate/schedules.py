"""What people do with schedules: list, show, add, edit, switch, run and remove them. Session in, typed view out.

What a schedule may be is said here once, for beat as for every door.
"""

import json
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy.orm import Session

from workers.runtime.beat.cron import ScheduleError, check, clock_changes, next_time, plain_cron
from workers.runtime.beat.maintenance import ACTIONS
from workers.runtime.enqueue import EnqueueError, enqueue, payload_refusal
from workers.runtime.handler.errors import describe
from workers.runtime.handler.registry import Registry, UnknownStageError
from workers.runtime.refusals import Kind, quoted
from workers.runtime.store import schedules as store
from workers.runtime.store.schedules import ScheduleRow, TickView

CATCH_UP = ("skip", "one", "all")
MOST_NAME_CHARACTERS = 100
MOST_PAYLOAD_BYTES = 262_144
SHOWN_TICKS = 10
# Beside letters with their marks: controls, marks of direction, spaces without width, and what is no character.
_UNSEEN = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"}

State = Literal["enabled", "paused", "refused"]


class UnknownSchedule(ScheduleError):
    """No schedule has that name."""

    kind = Kind.NOT_FOUND


class ScheduleExists(ScheduleError):
    """Another schedule has that name."""

    kind = Kind.CONFLICT


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleView:
    """One schedule. ``refusal`` says why it cannot do what it asks for, ``clock_changes`` what its zone's clock does

    to its times within 400 days; ``next_time`` is null while it is paused or refused.
    """

    name: str
    state: State
    refusal: str | None
    stage: str | None
    action: str | None
    payload: Mapping[str, Any] | None
    cron: str
    timezone: str
    catch_up: str
    enabled: bool
    last_scheduled_for: datetime | None
    changed_at: datetime | None
    next_time: datetime | None
    refused_at: datetime | None
    clock_changes: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSchedule:
    """What a schedule is made of; either ``stage`` with a ``payload``, or ``action``."""

    name: str
    cron: str
    timezone: str = "UTC"
    stage: str | None = None
    payload: Mapping[str, Any] | None = None
    action: str | None = None
    catch_up: str = "one"


# ── the rules ────────────────────────────────────────────────────────────────────────────────────────────────────────


def plain_name(name: str) -> str:
    """Return ``name`` in Unicode's composed form; raise ScheduleError for one that a person cannot see or type."""
    plain = unicodedata.normalize("NFC", name)
    if not plain.strip():
        raise ScheduleError(f"name must not be blank, got {quoted(name)}")
    if plain != plain.strip():
        raise ScheduleError(f"name must not begin or end with a blank, got {quoted(name)}")
    if len(plain) > MOST_NAME_CHARACTERS:
        raise ScheduleError(f"name must have at most {MOST_NAME_CHARACTERS} characters, got {len(plain)}")
    if any(unicodedata.category(character) in _UNSEEN for character in plain):
        raise ScheduleError(f"name must not contain control characters, got {quoted(name)}")
    return plain


def read_payload(text: str) -> dict[str, Any]:
    """Return a stored payload; raise ScheduleError where nobody can read it."""
    try:
        payload = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]
        raise ScheduleError(f"payload cannot be read: {said}") from None
    if not isinstance(payload, dict):
        raise ScheduleError(f"payload must be an object, got {quoted(payload)}")
    return payload


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"the number {number[:20]} is too large")
    return value


def check_payload(registry: Registry, stage: str, payload: Mapping[str, Any]) -> None:
    """Raise EnqueueError or UnknownStageError unless ``stage`` takes ``payload``."""
    model = registry[stage].payload
    try:
        model.model_validate(dict(payload))
        size = len(json.dumps(dict(payload), allow_nan=False).encode())
    except ValidationError as error:
        raise EnqueueError(f"payload: {payload_refusal(error)}") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise EnqueueError(f"payload must be JSON: {describe(error)}") from None
    if size > MOST_PAYLOAD_BYTES:
        raise EnqueueError(f"payload must have at most {MOST_PAYLOAD_BYTES:,} bytes, got {size:,}")


def check_work(registry: Registry, row: ScheduleRow) -> dict[str, Any]:
    """Return the payload of a stored schedule; raise unless its cron, its zone and what it does can be understood."""
    check(row.cron, row.timezone)
    payload = read_payload(row.payload)
    if row.action is not None:
        _check_action(row.action)
    elif row.stage is not None:
        check_payload(registry, row.stage, payload)
    return payload


def _check_action(action: str) -> None:
    if action not in ACTIONS:
        raise ScheduleError(f"action must be one of {', '.join(ACTIONS)}, got {quoted(action)}")


def refusal_of(registry: Registry, row: ScheduleRow) -> str | None:
    """Return why a schedule cannot do what it asks for: found now, or else by beat at its last time."""
    try:
        check_work(registry, row)
    except (ScheduleError, EnqueueError, UnknownStageError) as error:
        return str(error)
    return row.refusal


# ── use-cases ────────────────────────────────────────────────────────────────────────────────────────────────────────


def list_schedules(session: Session, registry: Registry) -> list[ScheduleView]:
    """Return every schedule by name."""
    at = store.now(session)
    return [_view(registry, row, at) for row in store.read_all(session)]


def show_schedule(session: Session, registry: Registry, name: str) -> tuple[ScheduleView, list[TickView]]:
    """Return one schedule with its newest ticks."""
    row = _existing(session, name)
    return _view(registry, row, store.now(session)), store.last_ticks(session, row.name, limit=SHOWN_TICKS)


def refused_schedules(session: Session, registry: Registry) -> dict[str, str]:
    """Return the reason of every enabled schedule that cannot do what it asks for, by name."""
    found = {row.name: refusal_of(registry, row) for row in store.read_all(session, enabled_only=True)}
    return {name: reason for name, reason in found.items() if reason}


def add_schedule(session: Session, registry: Registry, new: NewSchedule) -> ScheduleView:
    """Write a schedule that does not exist yet; everything about it is checked first."""
    values = _checked(registry, new)
    if not store.add(session, values):
        raise ScheduleExists(
            f"schedule {values['name']!r} exists already; `gristmill schedules edit` changes it, `remove` deletes it"
        )
    return _view(registry, _existing(session, values["name"]), store.now(session))


def edit_schedule(session: Session, registry: Registry, name: str, changes: Mapping[str, Any]) -> ScheduleView:
    """Change what is given of a schedule; what it is afterwards is checked as a new one. The past does not fire."""
    row = _existing(session, name)
    current = {field: getattr(row, field) for field in ("cron", "timezone", "stage", "action", "catch_up")}
    if "payload" not in changes:
        current["payload"] = read_payload(row.payload)
    values = _checked(registry, NewSchedule(**{"name": row.name, **current, **changes}))
    store.change(session, row.name, values)
    return _view(registry, _existing(session, row.name), store.now(session))


def switch_schedule(session: Session, registry: Registry, name: str, *, enabled: bool) -> ScheduleView:
    """Pause or resume a schedule. Resumed, it begins anew at this moment; one that is refused cannot be resumed."""
    row = _existing(session, name)
    if enabled:
        check_work(registry, row)
    store.change(session, row.name, {"enabled": enabled})
    return _view(registry, _existing(session, row.name), store.now(session))


def remove_schedule(session: Session, name: str) -> None:
    """Delete a schedule with its ticks."""
    store.remove(session, _existing(session, name).name)


def enqueue_now(session: Session, registry: Registry, name: str) -> UUID | str:
    """Enqueue what a schedule enqueues at its times and return the job's id; or return the name of its action."""
    row = _existing(session, name)
    payload = read_payload(row.payload)
    if row.stage is None:
        _check_action(row.action or "")
        return row.action or ""
    check_payload(registry, row.stage, payload)
    return enqueue(session, row.stage, payload).id


def _checked(registry: Registry, new: NewSchedule) -> dict[str, Any]:
    """Return the columns of a schedule that may be written."""
    if (new.stage is None) == (new.action is None):
        raise ScheduleError("a schedule must have either a stage or an action")
    if new.catch_up not in CATCH_UP:
        raise ScheduleError(f"catch-up must be one of {', '.join(CATCH_UP)}, got {quoted(new.catch_up)}")
    check(new.cron, new.timezone)
    payload = dict(new.payload or {})
    if new.stage is not None:
        check_payload(registry, new.stage, payload)
    else:
        _check_action(new.action or "")
        if payload:
            raise ScheduleError("payload is for a stage; an action has none")
    return {
        "name": plain_name(new.name),
        "cron": plain_cron(new.cron),
        "timezone": new.timezone,
        "stage": new.stage,
        "action": new.action,
        "payload": payload,
        "catch_up": new.catch_up,
    }


def _existing(session: Session, name: str) -> ScheduleRow:
    row = store.read_one(session, unicodedata.normalize("NFC", name))
    if row is None:
        known = ", ".join(store.names(session))
        raise UnknownSchedule(f"schedule {quoted(name)} does not exist; schedules: {known or 'none'}")
    return row


def _view(registry: Registry, row: ScheduleRow, at: datetime) -> ScheduleView:
    refusal = refusal_of(registry, row)
    upcoming: datetime | None = None
    changes: list[str] = []
    try:
        changes = clock_changes(row.cron, row.timezone, after=at)
        if row.enabled:
            begins = row.begins or datetime.min.replace(tzinfo=UTC) + timedelta(days=400)
            upcoming = next_time(row.cron, row.timezone, after=max(at, begins))
    except (ScheduleError, OverflowError):
        pass
    try:
        payload: Mapping[str, Any] | None = read_payload(row.payload)
    except ScheduleError:
        payload = None
    state: State = "paused" if not row.enabled else "refused" if refusal else "enabled"
    return ScheduleView(
        name=row.name,
        state=state,
        refusal=refusal,
        stage=row.stage,
        action=row.action,
        payload=payload,
        cron=row.cron,
        timezone=row.timezone,
        catch_up=row.catch_up,
        enabled=row.enabled,
        last_scheduled_for=row.last_scheduled_for,
        changed_at=row.changed_at,
        next_time=upcoming,
        refused_at=row.refused_at,
        clock_changes=changes,
    )
