"""The lifecycles that the database enforces, and the transitions of every job."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Index,
    Integer,
    String,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, INET
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class Transition(Base):
    """One legal state change of one job, written by the table's trigger and by nothing else.

    Partitioned by month of ``created_at``. ``old_state`` and ``version_from`` are null for the insert.
    """

    __tablename__ = "transitions"
    __table_args__ = (
        Index("ix_transitions_created_at", "created_at", postgresql_using="brin"),
        # Of attempts that failed and steps that ended before the last alone: migrations/versions/0012_truth.py.
        Index("ix_transitions_attempts", "stage", "created_at"),
        # Few rows: what people, services and the dispatcher did to jobs that existed.
        Index(
            "ix_transitions_moved_by_others",
            "created_at",
            postgresql_where=text("old_state IS NOT NULL AND coalesce(changed_by, '') NOT LIKE 'worker:%'"),
        ),
        {"schema": "runtime", "postgresql_partition_by": "RANGE (created_at)"},
    )

    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    version_to: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    created_at: Mapped[datetime] = mapped_column(primary_key=True)
    version_from: Mapped[int | None] = mapped_column(Integer)
    stage: Mapped[str] = mapped_column(String(100))
    old_state: Mapped[str | None] = mapped_column(String(40))
    new_state: Mapped[str] = mapped_column(String(40))
    changed_by: Mapped[str | None] = mapped_column(String(255))
    change_reason: Mapped[str | None] = mapped_column(Text)
    change_action: Mapped[str | None] = mapped_column(String(100))
    context: Mapped[dict[str, Any] | None]
    ip_address: Mapped[str | None] = mapped_column(INET)
    user_agent: Mapped[str | None] = mapped_column(Text)


class LifecycleDefinition(Base):
    """The lifecycle of one job table as its trigger enforces it; ``jobs_branch`` is its part of ``runtime.jobs``.

    The first three of ``terminal`` are completed, failed and cancelled. ``ends`` says of each further one whether it is
    good, bad or neutral. ``waits`` says by state what a job waits for, for which stage, where a decision and where the
    deadline lead; ``wait_column`` is the column that holds the deadline. ``shown_as`` has the public names of states.
    ``cancel_statement`` and ``decide_statement`` are what ``runtime.cancel`` and ``runtime.decide`` run for this table.
    """

    __tablename__ = "lifecycles"
    __table_args__ = {"schema": "runtime"}

    table_name: Mapped[str] = mapped_column(String(130), primary_key=True)
    initial: Mapped[str] = mapped_column(String(40))
    terminal: Mapped[list[str]] = mapped_column(ARRAY(Text))
    transitions: Mapped[list[str]] = mapped_column(ARRAY(Text))
    jobs_branch: Mapped[str] = mapped_column(Text)
    cancel_statement: Mapped[str | None] = mapped_column(Text)
    decide_statement: Mapped[str | None] = mapped_column(Text)
    waits: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    ends: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    shown_as: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    wait_column: Mapped[str | None] = mapped_column(String(63))
