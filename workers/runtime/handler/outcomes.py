"""What a handler returns. Pure values: settling them is the runner's business."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

Write = Callable[[AsyncSession], Awaitable[None]]
# Writes the rows of many jobs by one statement.
WriteRows = Callable[[AsyncSession, Sequence[Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one job that are written together with those of other jobs.

    Jobs that are settled together and name the same ``write`` share one call of it: it gets the rows of all of them, in
    the order of the jobs' ids. ``write`` must be a function of a module, not one made per job. If it raises, it is
    called once per job, and only the job that is to blame fails.
    """

    write: WriteRows
    rows: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Complete:
    """The step is done: set ``values`` on the job's row and run ``write`` in the settling transaction.

    The job goes on to the ``done`` state of its step, or to ``into``: a state that the lifecycle's ``also`` allows this
    step to choose, such as a wait or an end. ``until`` is the deadline of the wait that the job enters, as a time or
    counted from the settle; without it, the wait lasts as long as its lifecycle says.

    ``values`` maps attributes of the job's model (none of the lifecycle's) to JSON-able values. ``write`` is a callable
    that gets a session, :class:`Rows`, or several of both, which run in their order. What they add commits with the
    settle or not at all; they may run again after a rollback, and must not wait for a network. Prefer :class:`Rows`: a
    callable costs one statement per job.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    write: Write | Rows | Sequence[Write | Rows] | None = None
    into: str | None = None
    until: datetime | timedelta | None = None

    @property
    def writes(self) -> tuple[Write | Rows, ...]:
        """Everything that ``write`` names, in its order."""
        match self.write:
            case None:
                return ()
            case Sequence():
                return tuple(self.write)
            case one:
                return (one,)


@dataclass(frozen=True, slots=True)
class Snooze:
    """Not now: back to ready after ``delay``, no attempt spent."""

    delay: timedelta
    reason: str


@dataclass(frozen=True, slots=True)
class Fail:
    """It cannot succeed: failed for good, whatever attempts are left."""

    error: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """It is no longer wanted: cancelled."""

    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Back to ready by the backoff, one attempt spent; failed when none is left. Handlers raise instead.

    ``least`` is the shortest wait before the next attempt.
    """

    error: str
    least: timedelta = timedelta()


@dataclass(frozen=True, slots=True)
class Release:
    """A claim given back by a draining worker; no attempt spent. Made by the runner only."""

    reason: str


Outcome = Complete | Snooze | Fail | Cancel
Settlement = Outcome | Retry | Release
