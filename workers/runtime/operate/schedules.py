"""The use-cases of operators for schedules: list, show, add, edit, pause, resume, run and remove.

The rules of schedules are in :mod:`workers.runtime.beat.rules`, for beat and for every door.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from workers.runtime.actor import Actor, acting
from workers.runtime.beat.cron import ScheduleError, check_cron, clock_changes, next_time, plain_cron
from workers.runtime.beat.maintenance import actions, run_action
from workers.runtime.beat.rules import (
    CATCH_UP,
    check_action,
    check_payload,
    check_work,
    plain_name,
    read_payload,
    refusal_of_schedule,
)
from workers.runtime.database import Database
from workers.runtime.enqueue import enqueue
from workers.runtime.handler.registry import Registry
from workers.runtime.refusals import Kind, Problem, quoted
from workers.runtime.store import schedules as store
from workers.runtime.store.schedules import ScheduleRow, TickView
from workers.runtime.versions import require_version, version_at

__all__ = ["TickView"]

SHOWN_TICKS = 10

State = Literal["enabled", "paused", "refused"]


class UnknownSchedule(ScheduleError):
    """No schedule has that name."""

    kind = Kind.NOT_FOUND


class ScheduleExists(ScheduleError):
    """Another schedule has that name."""

    kind = Kind.CONFLICT


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleView:
    """One schedule, and when it fires next.

    ``refusal`` is the reason why it cannot run. ``clock_changes`` describe how clock changes of its time zone affect it
    within 400 days. ``next_time`` is None while it is paused or refused.
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
    version: int
    next_time: datetime | None
    refused_at: datetime | None
    clock_changes: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSchedule:
    """The values of a new schedule: either ``stage`` with ``payload``, or ``action``."""

    name: str
    cron: str
    timezone: str = "UTC"
    stage: str | None = None
    payload: Mapping[str, Any] | None = None
    action: str | None = None
    catch_up: str = "one"


async def list_schedules(session: AsyncSession, registry: Registry) -> list[ScheduleView]:
    """Return every schedule by name."""

    def run(sync: Session) -> list[ScheduleView]:
        at = store.now(sync)
        return [_view(registry, row, at) for row in store.read_all(sync)]

    return await session.run_sync(run)


async def show_schedule(session: AsyncSession, registry: Registry, name: str) -> tuple[ScheduleView, list[TickView]]:
    """Return one schedule with its newest ticks."""

    def run(sync: Session) -> tuple[ScheduleView, list[TickView]]:
        row = _find(sync, name)
        return _view(registry, row, store.now(sync)), store.list_last_ticks(sync, row.name, limit=SHOWN_TICKS)

    return await session.run_sync(run)


async def refused_schedules(session: AsyncSession, registry: Registry) -> dict[str, str]:
    """Return the enabled schedules that cannot run, by name, with the reason."""
    rows = await session.run_sync(lambda sync: store.read_all(sync, enabled_only=True))
    found = {row.name: refusal_of_schedule(registry, row) for row in rows}
    return {name: reason for name, reason in found.items() if reason}


async def add_schedule(session: AsyncSession, registry: Registry, new: NewSchedule, actor: Actor) -> ScheduleView:
    """Write a new schedule after checking all its values."""
    values = _checked(registry, new)

    def run(sync: Session) -> ScheduleView:
        if not store.add(sync, values):
            remedy = "`gristmill schedules edit` changes it, `remove` deletes it"
            raise ScheduleExists(f"schedule {values['name']!r} exists already", remedy=remedy)
        return _current(sync, registry, values["name"])

    async with acting(session, actor):
        return await session.run_sync(run)


async def edit_schedule(
    session: AsyncSession,
    registry: Registry,
    name: str,
    changes: Mapping[str, Any],
    actor: Actor,
    *,
    version: int | None = None,
) -> ScheduleView:
    """Change the given values of a schedule; the result is checked like a new one. Times in the past do not fire.

    With ``version`` (``workers.runtime.versions``), raise StaleVersion if the schedule has another one.
    A new stage replaces an action; a new action replaces a stage and its payload.
    """

    def run(sync: Session) -> ScheduleView:
        store.lock(sync, name)
        row = _find(sync, name)
        require_version(f"schedule {name}", row.last_change, version)
        given = _in_place_of(changes)
        current = {field: getattr(row, field) for field in ("cron", "timezone", "stage", "action", "catch_up")}
        if "payload" not in given:
            current["payload"] = read_payload(row.payload)
        values = _checked(registry, NewSchedule(**{"name": row.name, **current, **given}))
        store.change(sync, row.name, values)
        return _current(sync, registry, row.name)

    async with acting(session, actor):
        return await session.run_sync(run)


def _in_place_of(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``changes``; a new stage also clears the action, a new action the stage and the payload."""
    given = dict(changes)
    if given.get("stage") is not None and "action" not in given:
        given["action"] = None
    elif given.get("action") is not None and "stage" not in given:
        given |= {"stage": None, "payload": {}}
    return given


async def switch_schedule(
    session: AsyncSession, registry: Registry, name: str, actor: Actor, *, enabled: bool
) -> ScheduleView:
    """Pause or resume a schedule. It starts again from now; a refused schedule cannot be resumed."""

    def run(sync: Session) -> ScheduleView:
        row = _find(sync, name)
        if enabled:
            check_work(registry, row)
        store.change(sync, row.name, {"enabled": enabled})
        return _current(sync, registry, row.name)

    async with acting(session, actor):
        return await session.run_sync(run)


async def remove_schedule(session: AsyncSession, name: str, actor: Actor) -> None:
    """Delete a schedule with its ticks."""
    async with acting(session, actor):
        await session.run_sync(lambda sync: store.remove(sync, _find(sync, name).name))


async def enqueue_now(session: AsyncSession, registry: Registry, name: str, actor: Actor) -> UUID | str:
    """Enqueue what a schedule enqueues at its times and return the job's id; or return the name of its action."""

    def run(sync: Session) -> UUID | str:
        row = _find(sync, name)
        payload = read_payload(row.payload)
        if row.stage is None:
            check_action(row.action or "")
            return row.action or ""
        check_payload(registry, row.stage, payload)
        return enqueue(sync, row.stage, payload).id

    async with acting(session, actor):
        return await session.run_sync(run)


async def act_now(database: Database, action: str, *, transitions_retention: timedelta) -> Mapping[str, int]:
    """Run one maintenance action in this process; return how many rows it changed, by table."""
    check_action(action)
    return await run_action(database, actions(transitions_retention=transitions_retention)[action], action)


def _checked(registry: Registry, new: NewSchedule) -> dict[str, Any]:
    """Check the values of a schedule; return its columns."""
    if (new.stage is None) == (new.action is None):
        raise ScheduleError("a schedule must have either a stage or an action")
    if new.catch_up not in CATCH_UP:
        raise ScheduleError(Problem("catch-up", f"must be one of {', '.join(CATCH_UP)}", quoted(new.catch_up)))
    check_cron(new.cron, new.timezone)
    payload = dict(new.payload or {})
    if new.stage is not None:
        check_payload(registry, new.stage, payload)
    else:
        check_action(new.action or "")
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


def _current(session: Session, registry: Registry, name: str) -> ScheduleView:
    return _view(registry, _find(session, name), store.now(session))


def _find(session: Session, name: str) -> ScheduleRow:
    row = store.read_one(session, unicodedata.normalize("NFC", name))
    if row is None:
        known = ", ".join(store.list_names(session))
        raise UnknownSchedule(f"schedule {quoted(name)} does not exist; schedules: {known or 'none'}")
    return row


def _view(registry: Registry, row: ScheduleRow, at: datetime) -> ScheduleView:
    refusal = refusal_of_schedule(registry, row)
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
        version=version_at(row.last_change),
        next_time=upcoming,
        refused_at=row.refused_at,
        clock_changes=changes,
    )
