"""The kernel's own tables: transitions, lifecycles, stages, workers, schedules. One schema, ``runtime``."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, String, Text, func, text
from sqlalchemy.dialects.postgresql import ARRAY, INET
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Expiry


class Transition(Base):
    """One legal state change of one job, written by the table's trigger and by nothing else.

    Partitioned by month of ``created_at``. ``old_state`` and ``version_from`` are null for the insert.
    """

    __tablename__ = "transitions"
    __table_args__ = (
        Index("ix_transitions_created_at", "created_at", postgresql_using="brin"),
        {"schema": "runtime", "postgresql_partition_by": "RANGE (created_at)"},
    )

    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    version_to: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    created_at: Mapped[datetime] = mapped_column(primary_key=True)
    version_from: Mapped[int | None] = mapped_column(Integer)
    stage: Mapped[str] = mapped_column(String(100))
    old_state: Mapped[str | None] = mapped_column(String(20))
    new_state: Mapped[str] = mapped_column(String(20))
    changed_by: Mapped[str | None] = mapped_column(String(255))
    change_reason: Mapped[str | None] = mapped_column(Text)
    change_action: Mapped[str | None] = mapped_column(String(100))
    context: Mapped[dict[str, Any] | None]
    ip_address: Mapped[str | None] = mapped_column(INET)
    user_agent: Mapped[str | None] = mapped_column(Text)


class LifecycleDefinition(Base):
    """The lifecycle of one job table as its trigger enforces it; ``jobs_branch`` is its part of ``runtime.jobs``.

    ``cancel_statement`` is what ``runtime.cancel`` runs for this table.
    """

    __tablename__ = "lifecycles"
    __table_args__ = {"schema": "runtime"}

    table_name: Mapped[str] = mapped_column(String(130), primary_key=True)
    initial: Mapped[str] = mapped_column(String(20))
    terminal: Mapped[list[str]] = mapped_column(ARRAY(Text))
    transitions: Mapped[list[str]] = mapped_column(ARRAY(Text))
    jobs_branch: Mapped[str] = mapped_column(Text)
    cancel_statement: Mapped[str | None] = mapped_column(Text)


class StageState(Base):
    """What operators and workers say of one stage: paused or not, and the limit its handler declares."""

    __tablename__ = "stages"
    __table_args__ = {"schema": "runtime"}

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    table_name: Mapped[str] = mapped_column(ForeignKey("runtime.lifecycles.table_name", ondelete="CASCADE"))
    ready: Mapped[str] = mapped_column(String(20))
    running: Mapped[str] = mapped_column(String(20))
    done: Mapped[str] = mapped_column(String(20))
    limit_at_most: Mapped[int | None] = mapped_column(Integer)
    paused_at: Mapped[datetime | None]
    paused_by: Mapped[str | None] = mapped_column(String(255))


class Worker(Base):
    """One worker process. ``heartbeat_at`` plus the lease bounds every claim it holds."""

    __tablename__ = "workers"
    __table_args__ = {"schema": "runtime"}

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    queues: Mapped[list[str]] = mapped_column(ARRAY(Text))
    slots: Mapped[int] = mapped_column(Integer)
    running: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    lease_seconds: Mapped[float]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    heartbeat_at: Mapped[datetime] = mapped_column(server_default=func.now())
    draining_at: Mapped[datetime | None]


class Dispatcher(Base):
    """The leading dispatcher's one row: who leads, since when, and whether it asks to be rung for new work."""

    __tablename__ = "dispatcher"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"), {"schema": "runtime", "prefixes": ["UNLOGGED"]})

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    leader: Mapped[str | None] = mapped_column(String(255))
    leading_since: Mapped[datetime | None]
    seen_at: Mapped[datetime | None]
    listening: Mapped[bool] = mapped_column(server_default=text("true"))


class Schedule(Base):
    """A cron row: at each time of ``cron`` in ``timezone``, beat enqueues ``payload`` for ``stage`` or runs ``action``.

    ``catch_up`` says what happens to times that passed while no beat ran: ``skip`` them, fire ``one``, or fire ``all``.
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
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Tick(Base):
    """One firing of one schedule; its key is what makes any number of beats fire it once."""

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
