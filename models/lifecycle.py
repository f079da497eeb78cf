"""Declare lifecycles (states, steps, legal transitions) and the columns that every job table has.

These are pure declarations: this module reads and writes nothing and imports only the declarative base. The database
enforces the same rules (``migrations/kernel``); a test compares both.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import ClassVar, Literal
from uuid import UUID

from sqlalchemy import Index, Integer, SmallInteger, String, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base

PRIORITY_FIRST, PRIORITY_DEFAULT, PRIORITY_LAST = 1, 5, 10
MAX_STATE_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a lifecycle that a worker performs: ``ready`` -> ``running`` -> ``done``.

    ``done`` is the ready state of a later step, a wait or an end.
    """

    stage: str
    ready: str
    running: str
    done: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A state in which nobody works: a person, a remote agent or a provider's batch decides.

    ``waits_for`` completes the sentence "waiting for …". A decision leads to one of the states in ``decides``, a passed
    deadline to ``expires``. These are ready states, terminal states or other waits. ``lasts`` is the default time until
    the deadline; without it, the handler or decision that enters the wait must give a deadline. ``deadline`` is the
    model's attribute with the deadline. It is the same for all waits of a lifecycle.
    """

    state: str
    waits_for: str
    decides: tuple[str, ...]
    expires: str
    lasts: timedelta | None = None
    deadline: str = "wait_until"


@dataclass(frozen=True, slots=True)
class End:
    """A terminal state in addition to completed, failed and cancelled, and whether it is a good end.

    Lists and counts show a good end with the completed jobs, a bad one with the failed and a neutral one with the
    cancelled. Only a job in the state ``failed`` can be retried.
    """

    state: str
    counts_as: Literal["good", "bad", "neutral"]


@dataclass(frozen=True, kw_only=True)
class Lifecycle:
    """The states of one job table, its legal transitions and how long its terminal rows are kept.

    The steps and the waits define the transitions. A ready job is claimed or cancelled. A running job ends in the
    ``done`` state of its step, goes back to ready (retry, snooze, release, rescue), fails or is cancelled. An operator
    can retry a failed job. A wait ends by a decision, by its deadline or by a cancel. ``also`` adds transitions of the
    domain: a pair ``(running, state)`` lets the handler of that step choose the state (``Complete(into=…)``).

    ``shown_as`` maps states to the names that people and services read. With ``ends_at_full_progress``, a CHECK demands
    progress 100 for every ended job, more than 0 for a running one and 0 for all others. Without it, a failed or
    cancelled job keeps its progress.
    """

    steps: tuple[Step, ...]
    waits: tuple[Wait, ...] = ()
    ends: tuple[End, ...] = ()
    failed: str = "failed"
    cancelled: str = "cancelled"
    retention: timedelta
    also: frozenset[tuple[str, str]] = field(default_factory=frozenset)
    shown_as: Mapping[str, str] = field(default_factory=dict)
    ends_at_full_progress: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for a lifecycle in which a job could be lost."""
        for problem in _problems(self):
            raise ValueError(f"lifecycle of {self.steps[0].stage!r}: {problem}")

    @cached_property
    def initial(self) -> str:
        """The state in which a job is inserted; no other is accepted."""
        return self.steps[0].ready

    @cached_property
    def completed(self) -> str:
        """The state of a job that ended well: ``done`` of the last step, or the first good end if that is a wait."""
        last = self.steps[-1].done
        return next((end.state for end in self.ends if end.counts_as == "good"), last) if last in self.waiting else last

    @cached_property
    def ready(self) -> frozenset[str]:
        return frozenset(step.ready for step in self.steps)

    @cached_property
    def running(self) -> frozenset[str]:
        return frozenset(step.running for step in self.steps)

    @cached_property
    def waiting(self) -> frozenset[str]:
        return frozenset(wait.state for wait in self.waits)

    @cached_property
    def deadline(self) -> str | None:
        """The attribute with the deadline of a wait; None without waits."""
        return self.waits[0].deadline if self.waits else None

    @cached_property
    def terminal(self) -> frozenset[str]:
        return self.good | self.bad | self.neutral

    @cached_property
    def good(self) -> frozenset[str]:
        return self._ends("good") | {self.completed}

    @cached_property
    def bad(self) -> frozenset[str]:
        return self._ends("bad") | {self.failed}

    @cached_property
    def neutral(self) -> frozenset[str]:
        return self._ends("neutral") | {self.cancelled}

    def _ends(self, kind: str) -> frozenset[str]:
        return frozenset(end.state for end in self.ends if end.counts_as == kind)

    @cached_property
    def states(self) -> frozenset[str]:
        also = frozenset(state for pair in self.also for state in pair)
        return self.ready | self.running | self.waiting | self.terminal | also

    @cached_property
    def transitions(self) -> frozenset[tuple[str, str]]:
        """Every legal ``(old, new)`` pair."""
        legal = set(self.also)
        for step in self.steps:
            legal |= {(step.ready, step.running), (step.ready, self.cancelled), (self.failed, step.ready)}
            legal |= {(step.running, new) for new in (step.done, step.ready, self.failed, self.cancelled)}
        for wait in self.waits:
            legal |= {(wait.state, new) for new in (*wait.decides, wait.expires, self.cancelled)}
        return frozenset(legal)

    def step(self, stage: str) -> Step:
        """Return the step that ``stage`` performs; raise LookupError naming the known ones."""
        for step in self.steps:
            if step.stage == stage:
                return step
        known = ", ".join(step.stage for step in self.steps)
        raise LookupError(f"stage {stage!r} is no step of this lifecycle; its stages: {known}")

    def wait(self, state: str) -> Wait | None:
        """Return the wait with this ``state``; None if the state is no wait."""
        return next((wait for wait in self.waits if wait.state == state), None)

    def step_of(self, state: str) -> Step | None:
        """Return the step that a job in ``state`` belongs to: ready for it, running in it, or waiting after it.

        None for a terminal state: the column ``ended_in`` says in which state such a job ended.
        """
        return next((step for step in self.steps if state in self.states_of(step)), None)

    def states_of(self, step: Step) -> tuple[str, ...]:
        """Return the states of ``step``: ready, running, and the waits that a job enters from it.

        A wait belongs to the first step that leads to it. A wait that only other waits lead to belongs to their step.
        """
        return (step.ready, step.running, *(wait for wait, owner in self._waits_by_step.items() if owner is step))

    @cached_property
    def _waits_by_step(self) -> dict[str, Step]:
        entered = {(step.running, step.done) for step in self.steps} | self.also
        owners: dict[str, Step] = {}
        for step in self.steps:
            reached = [wait.state for wait in self.waits if (step.running, wait.state) in entered]
            while reached:
                state = reached.pop(0)
                wait = self.wait(state)
                if wait and state not in owners:
                    owners[state] = step
                    reached += (*wait.decides, wait.expires)
        return owners

    def public_name(self, state: str) -> str:
        """Return the name under which people and services read ``state``."""
        return self.shown_as.get(state, state)


def _problems(cycle: Lifecycle) -> Iterator[str]:
    """Yield the errors in the names, ends and waits of a lifecycle."""
    worked = cycle.ready | cycle.running
    if cycle.completed in cycle.waiting:
        yield f"its last step leads to the wait {cycle.completed!r}: declare the good End that a job reaches after it"
    if too_long := [state for state in cycle.states if len(state) > MAX_STATE_CHARACTERS]:
        yield f"a state has at most {MAX_STATE_CHARACTERS} characters, got {min(too_long)!r}"
    if doubled := (cycle.waiting & (worked | cycle.terminal)) | (worked & cycle.terminal):
        yield f"{min(doubled)!r} cannot be two kinds of state at once"
    if unknown := cycle.shown_as.keys() - cycle.states:
        yield f"it shows {min(unknown)!r}, which is none of its states"
    if len(cycle.waiting) < len(cycle.waits):
        yield "it declares one wait twice"
    if len({wait.deadline for wait in cycle.waits}) > 1:
        yield "all its waits keep their deadline in the same attribute"
    for wait in cycle.waits:
        yield from _problems_of_wait(cycle, wait)


def _problems_of_wait(cycle: Lifecycle, wait: Wait) -> Iterator[str]:
    if unknown := {*wait.decides, wait.expires} - (cycle.ready | cycle.terminal | cycle.waiting):
        yield f"the wait {wait.state!r} leads to {min(unknown)!r}, which is no ready state, end or wait"
    if not wait.decides:
        yield f"the wait {wait.state!r} names no state that a decision leads to"
    if (after := cycle.wait(wait.expires)) and after.lasts is None:
        yield f"the wait {after.state!r} follows an expiry and so must say how long it lasts"
    if cycle.step_of(wait.state) is None:
        yield f"no step leads to the wait {wait.state!r}"


class Job(Base):
    """One piece of durable work: the columns that every table with a lifecycle carries.

    ``version`` is the fence: every transition adds one, nothing subtracts. ``dispatched_at`` is the ticket: only the
    leading dispatcher sets it, and a job without it cannot be claimed. ``change_action`` and ``change_reason`` tell the
    audit trigger the last transition and its reason, because the rows of one statement can differ. The database sets
    ``owner_id``: the owner of the object that the job works on, or else the actor. Row level security, idempotency keys
    and limits use it. A job without an owner belongs to the operators. All times are those of the database.

    ``callback_url`` is told when the job has ended, whoever ended it (``runtime.notices``). ``traceparent`` is the W3C
    trace context of who enqueued the job. ``error_fingerprint`` is set by the database: it is equal for errors of one
    stage with one cause.

    A repeat with the same idempotency key must have the same payload. ``__may_differ__`` names the attributes that may
    differ. ``__may_grow__`` names the JSON objects that may have gained members since; the old members must be equal.
    """

    __abstract__ = True
    __lifecycle__: ClassVar[Lifecycle]
    __may_differ__: ClassVar[frozenset[str]] = frozenset()
    __may_grow__: ClassVar[frozenset[str]] = frozenset()

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"), sort_order=-100)
    owner_id: Mapped[UUID | None] = mapped_column(server_default=text("runtime.actor_id()"))
    status: Mapped[str] = mapped_column(String(MAX_STATE_CHARACTERS))
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
    error_fingerprint: Mapped[str | None] = mapped_column(Text)
    callback_url: Mapped[str | None] = mapped_column(Text)
    traceparent: Mapped[str | None] = mapped_column(Text)
    change_action: Mapped[str | None] = mapped_column(String(20))
    change_reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


def ended_in() -> Mapped[str | None]:
    """Return the additional column of a job table with several steps: the state in which a job ended.

    The database sets it. The job belongs to the stage of that state, and a retry sends it back to that stage.
    """
    return mapped_column(String(MAX_STATE_CHARACTERS))


def wait_until() -> Mapped[datetime | None]:
    """Return the additional column of a job table with waits: the deadline of the current wait.

    It is null outside a wait, by CHECK. Only the statements that enter and leave a wait set it.
    """
    return mapped_column()


JOB_ATTRIBUTES = frozenset(name for name in Job.__annotations__ if not name.startswith("__")) | {"ended_in"}


def lifecycle_attributes(model: type[Job]) -> frozenset[str]:
    """Return the attributes of ``model`` that only the kernel sets."""
    deadline = model.__lifecycle__.deadline
    return JOB_ATTRIBUTES | ({deadline} if deadline else frozenset())


def kernel_indexes(
    table: str,
    *,
    limit_column: str | None = None,
    status_column: str = "status",
    due_column: str = "due_at",
    created_column: str = "created_at",
    wait_column: str | None = None,
    gate_column: str | None = None,
    status_is_enum: bool = False,
) -> tuple[Index, ...]:
    """Return the indexes that the kernel's statements rely on, for a job table's ``__table_args__``.

    Alembic compares them by name and columns. The migration that attaches the lifecycle (``migrations/kernel``) writes
    their conditions; it is the only other place with these names. ``wait_column`` is the column with the deadline of
    waits, if the table has waits. ``gate_column`` is the gate of a stage, if one has a gate. ``status_is_enum`` if the
    status column is of an enum type.
    """
    key = (limit_column,) if limit_column else ()
    waits = (Index(f"ix_{table}_waits", wait_column),) if wait_column else ()
    order = ("priority", created_column, "id")
    gates = (Index(f"ix_{table}_gated", status_column, gate_column, *key, *order),) if gate_column else ()
    # For the lists of people and clients (workers.runtime.store.lists). Row level security lets no condition on an enum
    # be looked up in an index.
    lists = (
        Index(f"ix_{table}_listed", status_column, "id"),
        Index(f"ix_{table}_listed_later", status_column, "id"),
        Index(f"ix_{table}_owned", "owner_id", *(() if status_is_enum else (status_column,)), "id"),
        Index(f"ix_{table}_errors", "error_fingerprint", "id"),
        Index(f"ix_{table}_owned_errors", "owner_id", "error_fingerprint", "id"),
    )
    return (
        *waits,
        *gates,
        *lists,
        Index(f"ix_{table}_ready", status_column, *key, *order),
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
