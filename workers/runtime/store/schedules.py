"""The statements on ``runtime.schedules`` and ``runtime.ticks``. An unreadable row fails alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, case, cast, delete, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from models.runtime import Schedule, Tick


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRow:
    """One schedule as it is stored. ``payload`` is text: parsing it may fail, and must not make the others fail."""

    name: str
    stage: str | None
    action: str | None
    payload: str
    cron: str
    timezone: str
    catch_up: str
    enabled: bool
    last_scheduled_for: datetime | None
    changed_at: datetime | None
    created_at: datetime | None
    refusal: str | None
    refused_at: datetime | None

    @property
    def last_change(self) -> datetime | None:
        """When it was changed last, or made; None if that cannot be read."""
        return self.changed_at or self.created_at

    @property
    def begins(self) -> datetime | None:
        """The time after which the schedule fires: the latest of its creation, its last change and its last tick."""
        known = [time for time in (self.created_at, self.changed_at, self.last_scheduled_for) if time is not None]
        return max(known, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TickView:
    """One tick of a schedule: its job, or why there is none. The tick of an action has neither."""

    scheduled_for: datetime
    fired_at: datetime
    job_id: Any
    refusal: str | None


def _readable(column: Any) -> ColumnElement[datetime | None]:
    """Return a time, or NULL if the driver cannot read it: otherwise the driver would refuse all rows."""
    bounds = [cast(literal(bound), Schedule.created_at.type) for bound in ("0002-01-01Z", "9999-12-30Z")]
    return case((column.between(*bounds), column)).label(column.key)


def _rows() -> Select[*tuple[Any, ...]]:
    return select(
        Schedule.name,
        Schedule.stage,
        Schedule.action,
        cast(Schedule.payload, Text).label("payload"),
        Schedule.cron,
        Schedule.timezone,
        Schedule.catch_up,
        Schedule.enabled,
        *(_readable(column) for column in (Schedule.last_scheduled_for, Schedule.changed_at, Schedule.created_at)),
        Schedule.refusal,
        _readable(Schedule.refused_at),
    ).order_by(Schedule.name)


def now(session: Session) -> datetime:
    """Return the database's time."""
    return session.execute(select(func.now())).scalar_one()


def read_all(session: Session, *, enabled_only: bool = False) -> list[ScheduleRow]:
    """Return every schedule, in the order of names."""
    rows = _rows().where(Schedule.enabled) if enabled_only else _rows()
    return [ScheduleRow(**row) for row in session.execute(rows).mappings()]


def read_one(session: Session, name: str) -> ScheduleRow | None:
    """Return one schedule, or None."""
    row = session.execute(_rows().where(Schedule.name == name)).mappings().first()
    return ScheduleRow(**row) if row else None


def lock(session: Session, name: str) -> None:
    """Let nobody change a schedule before this transaction ends."""
    session.execute(select(Schedule.name).where(Schedule.name == name).with_for_update())


def list_names(session: Session) -> list[str]:
    """Return the name of every schedule."""
    return list(session.scalars(select(Schedule.name).order_by(Schedule.name)))


def add(session: Session, values: Mapping[str, Any]) -> bool:
    """Insert a schedule; return False if its name is taken."""
    row = insert(Schedule).values(values).on_conflict_do_nothing(index_elements=[Schedule.name])
    return session.execute(row.returning(Schedule.name)).first() is not None


def change(session: Session, name: str, values: Mapping[str, Any]) -> None:
    """Change a schedule; the table's trigger sets ``changed_at``."""
    session.execute(update(Schedule).where(Schedule.name == name).values(values))


def remove(session: Session, name: str) -> None:
    """Delete a schedule and its ticks."""
    session.execute(delete(Schedule).where(Schedule.name == name))


def note_refusal(session: Session, name: str, reason: str | None) -> None:
    """Write why a schedule could not do its work, or None if it could. The same value again changes nothing."""
    changes = {"refusal": reason, "refused_at": func.now() if reason else None}
    session.execute(
        update(Schedule).where(Schedule.name == name, Schedule.refusal.is_distinct_from(reason)).values(changes)
    )


def take_tick(session: Session, name: str, scheduled_for: datetime, *, fired_by: str) -> bool:
    """Insert the tick for one time of a schedule; return False if another beat has inserted it."""
    row = insert(Tick).values(schedule=name, scheduled_for=scheduled_for, fired_by=fired_by)
    return session.execute(row.on_conflict_do_nothing().returning(Tick.schedule)).first() is not None


def end_tick(session: Session, name: str, scheduled_for: datetime, **outcome: Any) -> None:
    """Write the result of a tick: its ``job_id``, or the ``refusal`` if it has no job."""
    session.execute(update(Tick).where(Tick.schedule == name, Tick.scheduled_for == scheduled_for).values(outcome))


def note_fired(session: Session, name: str, fired_for: datetime) -> None:
    """Write the latest time that a schedule has fired for; an earlier one changes nothing."""
    session.execute(
        update(Schedule)
        .where(Schedule.name == name)
        .values(last_scheduled_for=func.greatest(Schedule.last_scheduled_for, fired_for))
    )


def list_last_ticks(session: Session, name: str, *, limit: int) -> list[TickView]:
    """Return the newest ticks of a schedule, newest first."""
    rows = (
        select(_readable(Tick.scheduled_for), _readable(Tick.fired_at), Tick.job_id, Tick.refusal)
        .where(Tick.schedule == name)
        .order_by(Tick.scheduled_for.desc())
        .limit(limit)
    )
    return [TickView(**row) for row in session.execute(rows).mappings()]
