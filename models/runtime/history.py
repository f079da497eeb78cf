"""The lifecycles that the database enforces, and the transitions of every job."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Boolean,
    Index,
    Integer,
    String,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, INET
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import UserDefinedType

from models.base import Base


class Xid8(UserDefinedType[str]):
    """The 64-bit number of a transaction. The driver reads it as text: statements cast it to bigint."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "xid8"


ischema_names["xid8"] = Xid8  # so that Alembic can read such a column


class Transition(Base):
    """One legal state change of one job. Only the trigger of the job table writes it.

    Partitioned by month of ``created_at``. ``old_state`` and ``version_from`` are null for the insert.
    ``transaction_id`` is the transaction that wrote it; it is null in rows of older releases.
    """

    __tablename__ = "transitions"
    __table_args__ = (
        Index("ix_transitions_created_at", "created_at", postgresql_using="brin"),
        # Only failed attempts, and ends of a step that is not the last: migrations/versions/0012_truth.py.
        Index("ix_transitions_attempts", "stage", "created_at"),
        # Few rows: changes of existing jobs by people, services and the dispatcher.
        Index(
            "ix_transitions_moved_by_others",
            "created_at",
            postgresql_where=text("old_state IS NOT NULL AND coalesce(changed_by, '') NOT LIKE 'worker:%'"),
        ),
        # The order of streams: workers/runtime/store/feed.py.
        Index("ix_transitions_transaction_id", "transaction_id"),
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
    transaction_id: Mapped[str | None] = mapped_column(Xid8, server_default=text("pg_current_xact_id()"))


class LifecycleDefinition(Base):
    """The lifecycle of one job table as its trigger enforces it; ``jobs_branch`` is its part of ``runtime.jobs``.

    The first three of ``terminal`` are completed, failed and cancelled. ``ends`` maps each further terminal state to
    good, bad or neutral. ``waits`` has by state: what a job waits for, its stage, the states that a decision may
    choose, and the state after the deadline. ``wait_column`` is the column with the deadline, ``gate_column`` that of
    the gate. ``shown_as`` has the public names of states. ``runtime.cancel`` runs ``cancel_statement``,
    ``runtime.decide`` runs ``decide_statement``. Without ``gives_notices`` nobody is told of ended jobs of the table.
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
    gate_column: Mapped[str | None] = mapped_column(Text)
    gives_notices: Mapped[bool] = mapped_column(Boolean, server_default=text("true"))
