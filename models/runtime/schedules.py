"""Schedules and their ticks."""

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
    A trigger sets ``changed_at`` when cron, time zone or ``catch_up`` change or the schedule is resumed; earlier times
    do not fire. ``refusal`` is why beat could not do the work of the row, until the row changes or fires again. The
    migration adds CHECKs: the rule of the name, five fields in an enabled cron, an object as payload, finite times.
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
    """One firing of one schedule. Because of its primary key it fires once, even with several beats.

    It has the job that it enqueued, or the ``refusal`` if there is none.
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
