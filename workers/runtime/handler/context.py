"""The context of a handler: its run, the outside world, short sessions, progress."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from models.lifecycle import Job
from workers.runtime.handler.endurance import MAX_IDLE_TIME
from workers.runtime.handler.ports import LanguageModel
from workers.runtime.handler.resources import Resources


class Run(NamedTuple):
    """One claim of one job. ``version`` is the fence: every write of this run names it."""

    stage: str
    job_id: UUID
    version: int
    attempt: int


# The run that the current task performs; its calls to other systems name its job. None outside of runs.
current_run: ContextVar[Run | None] = ContextVar("current_run", default=None)
# The row of that run's job, and when the run must end (of ``time.monotonic()``). None outside of runs.
current_job: ContextVar[Job | None] = ContextVar("current_job", default=None)
current_deadline: ContextVar[float | None] = ContextVar("current_deadline", default=None)


@dataclass(slots=True)
class Progress:
    """Whether the current run has got its job forward: an answer was kept, a checkpoint was written."""

    made: bool = False


current_progress: ContextVar[Progress | None] = ContextVar("current_progress", default=None)


def note_progress() -> None:
    """Note that the current run has got its job forward. Runs that never do so are bounded."""
    progress = current_progress.get()
    if progress is not None:
        progress.made = True


@dataclass(slots=True)
class TurnWaits:
    """Whether a run ended while it waited for its turn, and what it waited for."""

    interrupted: str | None = None


current_turns: ContextVar[TurnWaits | None] = ContextVar("current_turns", default=None)


@contextmanager
def waiting_for_turn(reason: str) -> Iterator[None]:
    """Enclose a wait for a limit, in this process or beyond.

    If the run's time ends within it, the job is given back without an attempt: its time has not begun yet.
    """
    try:
        yield
    except asyncio.CancelledError:
        if (turns := current_turns.get()) is not None:
            turns.interrupted = reason
        raise


def seconds_left() -> float | None:
    """Return how long the current run may still take; None outside of runs."""
    deadline = current_deadline.get()
    return None if deadline is None else deadline - time.monotonic()


# May return further values for the job's row, for example a count of the rows that it wrote.
CheckpointWrite = Callable[[AsyncSession], Awaitable[Mapping[str, Any] | None]]


class Checkpoint(Protocol):
    """Commits what a long run has done so far."""

    async def __call__(self, values: Mapping[str, Any], write: CheckpointWrite | None = None) -> None: ...


@dataclass(slots=True, kw_only=True)  # made once per run: frozen, it would take twice as long
class Context:
    """The context of one run.

    ``resources`` is the outside world: ``resources.http``, ``resources.mail``; ``llm`` is short for ``resources.llm``.
    ``session()`` opens a transaction that commits when its block ends well: keep it short, and never await a
    network inside. Rows that must commit with the outcome belong in ``Complete(write=…)`` instead.
    ``progress(n)`` stores 1–99 at once; under a lost fence it changes nothing.
    ``checkpoint(values, write)`` commits ``values`` on the job's row, and what ``write`` adds to its session, in one
    transaction at once, so that the next run can continue from there. ``values`` may be those of ``Complete``, and
    ``progress``; what ``write`` returns is set like them. If the fence is lost, nothing is written and this run ends.
    ``traceparent`` is the W3C trace context of who enqueued the job, if there is one.
    ``clock()`` is the database's time as this process knows it. ``patience`` is how long a run without any
    progress waits for its provider, before it leaves the wait to the kernel.
    """

    run: Run
    resources: Resources
    session: Callable[[], AbstractAsyncContextManager[AsyncSession]]
    progress: Callable[[int], Awaitable[None]]
    checkpoint: Checkpoint
    clock: Callable[[], datetime]
    patience: timedelta = MAX_IDLE_TIME
    traceparent: str | None = None

    @property
    def llm(self) -> LanguageModel:
        """The language model."""
        return self.resources.llm
