"""What a handler returns. Pure values: settling them is the runner's business."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

Write = Callable[[AsyncSession], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Complete:
    """The step is done: set ``values`` on the job's row and run ``write`` in the settling transaction.

    The job goes on to the ``done`` state of its step, or to ``into``: a state that the lifecycle's ``also`` allows this
    step to choose, such as a wait or an end. ``until`` is the deadline of the wait that the job enters, as a time or
    counted from the settle; without it, the wait lasts as long as its lifecycle says.

    ``values`` maps attributes of the job's model (none of the lifecycle's) to JSON-able values. What ``write``
    adds to its session commits with the settle or not at all; it may run again after a rollback, and must not
    wait for a network.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    write: Write | None = None
    into: str | None = None
    until: datetime | timedelta | None = None


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
