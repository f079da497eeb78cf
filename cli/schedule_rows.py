"""Read and change the rows of ``runtime.schedules``."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from cli.addresses import addresses
from cli.connection import opened
from cli.errors import CommandError, WrongUsageError
from config.logging import configure
from config.settings import load
from models.runtime import Schedule
from workers.runtime.enqueue import EnqueueError, enqueue, payload_refusal
from workers.runtime.maintenance import actions, run_action
from workers.runtime.registry import discover
from workers.runtime.schedules import ScheduleError, check, next_time


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleView:
    """One schedule; ``next_time`` is null while it is paused or cannot be understood."""

    name: str
    stage: str | None
    action: str | None
    payload: Mapping[str, Any]
    cron: str
    timezone: str
    catch_up: str
    enabled: bool
    last_scheduled_for: datetime | None
    next_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSchedule:
    """What `schedules add` was given."""

    name: str
    cron: str
    timezone: str
    stage: str | None
    payload: Mapping[str, Any]
    action: str | None
    catch_up: str


@dataclass(frozen=True, slots=True)
class Ran:
    """What `schedules run` did: a job enqueued, or an action performed on so many rows."""

    job_id: UUID | None = None
    action: str | None = None
    rows: int | None = None


async def listed() -> list[ScheduleView]:
    """Return every schedule by name."""
    async with _session() as session:
        now = await _now(session)
        return [_view(row, now) for row in await session.scalars(select(Schedule).order_by(Schedule.name))]


async def added(new: NewSchedule) -> datetime:
    """Write a schedule that does not exist yet and return its first time; everything about it is checked first."""
    check(new.cron, new.timezone)
    _check_work(new)
    async with _session() as session:
        row = {
            "name": new.name,
            "cron": new.cron,
            "timezone": new.timezone,
            "stage": new.stage,
            "payload": dict(new.payload),
            "action": new.action,
            "catch_up": new.catch_up,
        }
        written = await session.scalar(insert(Schedule).values(row).on_conflict_do_nothing().returning(Schedule.name))
        if written is None:
            raise CommandError(f"schedule {new.name!r} exists already; `gristmill schedules remove {new.name}` first")
        return next_time(new.cron, new.timezone, after=await _now(session))


async def switched(name: str, *, enabled: bool) -> None:
    """Pause or resume a schedule. Resuming one that was paused begins anew at this moment."""
    changes: dict[str, Any] = {"enabled": enabled, "updated_at": func.now()}
    async with _session() as session:
        row = await _existing(session, name)
        if enabled and not row.enabled:
            changes["last_scheduled_for"] = func.now()
        await session.execute(update(Schedule).where(Schedule.name == name).values(changes))


async def ran(name: str) -> Ran:
    """Do now what the schedule does at its times."""
    settings = load()
    configure(settings.log_format, "WARNING")  # the caller tells what was done
    async with opened(addresses(settings).database_url) as database:
        async with database.session() as session:
            row = await _existing(session, name)
            if row.stage is not None:
                discover()
                return Ran(job_id=(await enqueue(session, row.stage, row.payload)).id)
            action = row.action or ""
        known = actions(transitions_retention=timedelta(days=settings.transitions_retention_days))
        if action not in known:
            raise CommandError(f"schedule {name!r} has the unknown action {action!r}; actions: {', '.join(known)}")
        return Ran(action=action, rows=await run_action(database, known[action], action))


async def removed(name: str) -> None:
    """Delete a schedule."""
    async with _session() as session:
        await _existing(session, name)
        await session.execute(delete(Schedule).where(Schedule.name == name))


def _check_work(new: NewSchedule) -> None:
    if new.stage is not None:
        try:
            discover()[new.stage].payload.model_validate(new.payload)
        except ValidationError as error:
            raise EnqueueError(f"payload: {payload_refusal(error)}") from None
        return
    known = actions(transitions_retention=timedelta(days=1))
    if new.action not in known:
        raise WrongUsageError(f"action must be one of {', '.join(known)}, got {new.action!r}")


def _view(row: Schedule, now: datetime) -> ScheduleView:
    try:
        upcoming = next_time(row.cron, row.timezone, after=now) if row.enabled else None
    except ScheduleError:
        upcoming = None
    return ScheduleView(
        name=row.name,
        stage=row.stage,
        action=row.action,
        payload=row.payload,
        cron=row.cron,
        timezone=row.timezone,
        catch_up=row.catch_up,
        enabled=row.enabled,
        last_scheduled_for=row.last_scheduled_for,
        next_time=upcoming,
    )


async def _existing(session: AsyncSession, name: str) -> Schedule:
    row = await session.get(Schedule, name)
    if row is None:
        known = ", ".join(await session.scalars(select(Schedule.name).order_by(Schedule.name)))
        raise CommandError(f"schedule {name!r} does not exist; schedules: {known or 'none'}")
    return row


async def _now(session: AsyncSession) -> datetime:
    now: datetime | None = await session.scalar(select(func.now()))
    assert now is not None
    return now


@asynccontextmanager
async def _session() -> AsyncIterator[AsyncSession]:
    async with opened(addresses(load()).database_url) as database, database.session() as session:
        yield session
