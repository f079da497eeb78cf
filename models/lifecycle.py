"""Declare what a job may become: states, steps, legal transitions, and the columns every job table carries.

Room for pure declarations beside the models; it reads nothing, writes nothing and imports nothing of ours but
the declarative base. The database enforces the same rules (``migrations/kernel``), and a test compares both.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import ClassVar
from uuid import UUID

from sqlalchemy import Index, Integer, SmallInteger, String, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base

PRIORITY_FIRST, PRIORITY_DEFAULT, PRIORITY_LAST = 1, 5, 10


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a lifecycle that a worker performs: ``ready`` -> ``running`` -> ``done``."""

    stage: str
    ready: str
    running: str
    done: str


@dataclass(frozen=True, kw_only=True)
class Lifecycle:
    """The states of one job table, its legal transitions and how long its terminal rows are kept.

    The transitions follow from the steps: a step is claimed, ends in its ``done`` state, goes back to ready
    (retry, snooze, release, rescue), fails or is cancelled; a ready job can be cancelled; a failed one can be
    retried by an operator. ``also`` adds what a domain allows beyond that. With ``ends_at_full_progress`` a failed
    or cancelled job shows progress 100 as a completed one does, a running one more than 0 and a ready one 0, by CHECK;
    without, a job that ended early keeps what it had reached.
    """

    steps: tuple[Step, ...]
    failed: str = "failed"
    cancelled: str = "cancelled"
    retention: timedelta
    also: frozenset[tuple[str, str]] = field(default_factory=frozenset)
    ends_at_full_progress: bool = False

    @cached_property
    def initial(self) -> str:
        """The state in which a job is inserted; no other is accepted."""
        return self.steps[0].ready

    @cached_property
    def completed(self) -> str:
        """The state in which a job that went well ends."""
        return self.steps[-1].done

    @cached_property
    def ready(self) -> frozenset[str]:
        return frozenset(step.ready for step in self.steps)

    @cached_property
    def running(self) -> frozenset[str]:
        return frozenset(step.running for step in self.steps)

    @cached_property
    def terminal(self) -> frozenset[str]:
        return frozenset({self.completed, self.failed, self.cancelled})

    @cached_property
    def states(self) -> frozenset[str]:
        return self.ready | self.running | self.terminal | frozenset(state for pair in self.also for state in pair)

    @cached_property
    def transitions(self) -> frozenset[tuple[str, str]]:
        """Every legal ``(old, new)`` pair."""
        legal = set(self.also)
        for step in self.steps:
            legal |= {(step.ready, step.running), (step.ready, self.cancelled), (self.failed, step.ready)}
            legal |= {(step.running, new) for new in (step.done, step.ready, self.failed, self.cancelled)}
        return frozenset(legal)

    def step(self, stage: str) -> Step:
        """Return the step that ``stage`` performs; raise LookupError naming the known ones."""
        for step in self.steps:
            if step.stage == stage:
                return step
        known = ", ".join(step.stage for step in self.steps)
        raise LookupError(f"stage {stage!r} is no step of this lifecycle; its stages: {known}")


class Job(Base):
    """One piece of durable work: the columns that every table with a lifecycle carries.

    ``version`` is the fence: every transition adds one, nothing takes one back. ``dispatched_at`` is the ticket
    that only the leading dispatcher gives and without which nothing is claimed. ``change_action`` and
    ``change_reason`` tell the audit trigger what the last transition was and why, where the rows of one statement
    differ. ``owner_id`` is set by the database: whose the thing is that the job works on, else who acts; row level
    security, idempotency keys and limits go by it, and a job without an owner belongs to the operators. All times are
    the database's.

    Of the same idempotency key the same is asked: ``__may_differ__`` are the attributes of a payload that a repeat may
    give otherwise, ``__may_grow__`` the documents that may have gained keys since.
    """

    __abstract__ = True
    __lifecycle__: ClassVar[Lifecycle]
    __may_differ__: ClassVar[frozenset[str]] = frozenset()
    __may_grow__: ClassVar[frozenset[str]] = frozenset()

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"), sort_order=-100)
    owner_id: Mapped[UUID | None] = mapped_column(server_default=text("runtime.actor_id()"))
    status: Mapped[str] = mapped_column(String(20))
    version: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    priority: Mapped[int] = mapped_column(SmallInteger, server_default=text("5"))
    retry_count: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    max_retries: Mapped[int] = mapped_column(Integer, server_default=text("5"))
    due_at: Mapped[datetime | None]
    timeout_seconds: Mapped[int | None]
    progress: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    dispatched_at: Mapped[datetime | None]
    lease_owner: Mapped[UUID | None]
    deadline_at: Mapped[datetime | None]
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    error_message: Mapped[str | None] = mapped_column(Text)
    change_action: Mapped[str | None] = mapped_column(String(20))
    change_reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


def ended_in() -> Mapped[str | None]:
    """Return the column that a job table with several steps has beside these: the state in which a job ended.

    Kept by the database. The job belongs to that state's stage, and a retry takes it back there.
    """
    return mapped_column(String(40))


JOB_ATTRIBUTES = frozenset(name for name in Job.__annotations__ if not name.startswith("__")) | {"ended_in"}


def kernel_indexes(
    table: str,
    *,
    limit_column: str | None = None,
    status_column: str = "status",
    due_column: str = "due_at",
    created_column: str = "created_at",
) -> tuple[Index, ...]:
    """Return the indexes that the kernel's statements rely on, for a job table's ``__table_args__``.

    Alembic compares them by name and columns; their conditions are written by the migration that attaches the
    lifecycle (``migrations/kernel``), the only other place that knows these names.
    """
    key = (limit_column,) if limit_column else ()
    return (
        Index(f"ix_{table}_ready", status_column, *key, "priority", created_column, "id"),
        Index(f"ix_{table}_due", due_column),
        Index(f"ix_{table}_in_flight", status_column, *(key or ("lease_owner",))),
        Index(f"ix_{table}_completed", "completed_at"),
        Index(f"ix_{table}_unsuccessful", status_column, "completed_at"),
        Index(
            f"uq_{table}_idempotency_key",
            "owner_id",
            "idempotency_key",
            unique=True,
            postgresql_nulls_not_distinct=True,
        ),
    )
