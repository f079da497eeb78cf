"""Schedules and the ticks that they fired."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    String,
    Text,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Expiry


class Schedule(Base):
    """A cron row: at each time of ``cron`` in ``timezone``, beat enqueues ``payload`` for ``stage`` or runs ``action``.

    ``catch_up`` says what happens to times that passed while no beat ran: ``skip`` them, fire ``one``, or fire ``all``.
    ``changed_at`` is set by a trigger when cron, time zone or policy change or the schedule is resumed: what lies
    before it does not fire. ``refusal`` is why beat could not do what the row asks for, until the row changes or fires
    again. CHECKs of the migration say more: the name's rule, five fields of an enabled cron, an object as payload,
    finite times.
    """

    __tablename__ = "schedules"
    __table_args__ = (
        CheckConstraint("num_nonnulls(stage, action) = 1", name="stage_or_action"),
        CheckConstraint("catch_up IN ('skip', 'one', 'all')", name="catch_up"),
        {"schema": "runtime"},
    )

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    stage: Mapped[str | None] = mapped_column(String(100))
    payload: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    action: Mapped[str | None] = mapped_column(String(100))
    cron: Mapped[str] = mapped_column(String(100))
    timezone: Mapped[str] = mapped_column(String(64), server_default=text("'UTC'"))
    catch_up: Mapped[str] = mapped_column(String(10), server_default=text("'one'"))
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    last_scheduled_for: Mapped[datetime | None]
    changed_at: Mapped[datetime | None]
    refusal: Mapped[str | None] = mapped_column(Text)
    refused_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Tick(Base):
    """One firing of one schedule; its key is what makes any number of beats fire it once.

    It has the job that it enqueued, or the ``refusal`` that kept it from that.
    """

    __tablename__ = "ticks"
    __table_args__ = {"schema": "runtime"}
    __expiry__ = Expiry(column="fired_at", after=timedelta(days=30))

    schedule: Mapped[str] = mapped_column(
        ForeignKey("runtime.schedules.name", ondelete="CASCADE", onupdate="CASCADE"), primary_key=True
    )
    scheduled_for: Mapped[datetime] = mapped_column(primary_key=True)
    fired_at: Mapped[datetime] = mapped_column(server_default=func.now())
    fired_by: Mapped[str] = mapped_column(String(255))
    job_id: Mapped[UUID | None]
    refusal: Mapped[str | None] = mapped_column(Text)
