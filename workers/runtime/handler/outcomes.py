"""The values that a handler returns. Pure; the worker settles them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

Write = Callable[[AsyncSession], Awaitable[None]]
# Writes the rows of many jobs in one call.
WriteRows = Callable[[AsyncSession, Sequence[Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one job that are written together with those of other jobs.

    Jobs that are settled together and have the same ``write`` share one call: it gets the rows of all of them, in the
    order of the jobs' ids. ``write`` must be a function of a module, not one made per job. If it raises, it is called
    once per job, and only the job with the error fails.
    """

    write: WriteRows
    rows: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Complete:
    """The step is done: set ``values`` on the job's row and run ``write`` in the settling transaction.

    The job goes on to the ``done`` state of its step, or to ``into``: a state that the lifecycle's ``also`` allows this
    step to choose, for example a wait or an end. ``until`` is the deadline of the wait that the job enters: a time, or
    a span from the settle. Without it, the wait lasts as long as its lifecycle says.

    ``values`` maps attributes of the job's model (none of the lifecycle's) to JSON-able values. ``write`` is a callable
    that gets a session, :class:`Rows`, or several of both, which run in their order. Their changes commit with the
    settle or not at all. They may run again after a rollback, and must not wait for a network. Prefer :class:`Rows`: a
    callable costs one statement per job.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    write: Write | Rows | Sequence[Write | Rows] | None = None
    into: str | None = None
    until: datetime | timedelta | None = None

    @property
    def writes(self) -> tuple[Write | Rows, ...]:
        """All writes of ``write``, in their order."""
        match self.write:
            case None:
                return ()
            case Sequence():
                return tuple(self.write)
            case one:
                return (one,)


@dataclass(frozen=True, slots=True)
class Snooze:
    """Run later: back to ready after ``delay``; no attempt is spent."""

    delay: timedelta
    reason: str


@dataclass(frozen=True, slots=True)
class Fail:
    """The job cannot succeed: it fails now, even if attempts are left."""

    error: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """The job is no longer wanted: it is cancelled."""

    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Back to ready after the backoff, one attempt spent; failed if no attempt is left. Handlers raise instead.

    ``min_delay`` is the shortest wait before the next attempt. With ``delay`` it waits exactly that long.
    """

    error: str
    min_delay: timedelta = timedelta()
    delay: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """A draining worker gives the claim back; no attempt is spent. Only the worker makes it."""

    reason: str


Outcome = Complete | Snooze | Fail | Cancel
Settlement = Outcome | Retry | Release
