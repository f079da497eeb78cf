"""Worker processes and the leading dispatcher."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Integer,
    String,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class WorkerProcess(Base):
    """One worker process. Its claims are valid until ``heartbeat_at`` plus ``lease_seconds``.

    ``provider`` is who answers its language model calls (``workers.runtime.handler.ports.Answering``); it holds no
    secret.
    """

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
    version: Mapped[str | None] = mapped_column(String(40))
    provider: Mapped[dict[str, Any] | None]


class LeadingDispatcher(Base):
    """The one row of the leading dispatcher: its lease, its name, and whether enqueues notify it (``listening``).

    ``term`` grows with every leader: it is the fence of the leader's statements. Another dispatcher may take the lease
    after ``expires_at``, or when the session (process id and start time) that took it has ended.
    """

    __tablename__ = "dispatcher"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"), {"schema": "runtime", "prefixes": ["UNLOGGED"]})

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    term: Mapped[int] = mapped_column(BigInteger)
    leader: Mapped[str | None] = mapped_column(String(255))
    session_pid: Mapped[int | None] = mapped_column(Integer)
    session_started: Mapped[datetime | None]
    expires_at: Mapped[datetime]
    leading_since: Mapped[datetime | None]
    seen_at: Mapped[datetime | None]
    listening: Mapped[bool] = mapped_column(server_default=text("true"))
