"""One run of a job that needs several runs: commit in between, end in time, wait for an unavailable provider."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from workers.runtime.database import retry_while_away
from workers.runtime.handler.context import CheckpointWrite, Context
from workers.runtime.handler.endurance import FIRST_WAIT
from workers.runtime.handler.errors import InvalidAnswers, Retryable, Unavailable, describe
from workers.runtime.handler.outcomes import Snooze

T = TypeVar("T")

# In this time the requests in flight end and their results are committed.
DEADLINE_MARGIN = timedelta(minutes=5)
MAX_OUTAGE_WAIT = timedelta(minutes=5)


class TimeIsUp(Exception):
    """The run's deadline is near: start no more work; another run continues."""


class OthersTurn(Exception):
    """Another job on the same items comes first. The message names it. Try again after ``delay``."""

    def __init__(self, reason: str, *, delay: timedelta) -> None:
        super().__init__(reason)
        self.delay = delay


def last_start(deadline: datetime | None, now: datetime) -> datetime | None:
    """Return the time after which no work starts: 5 minutes before the deadline, or a tenth of the time if less."""
    return deadline and deadline - min(DEADLINE_MARGIN, (deadline - now) / 10)


@dataclass(frozen=True, slots=True)
class Outage:
    """A provider is unavailable since ``since``; ``done`` items of the job were done at that time."""

    since: datetime
    done: int

    @classmethod
    def of(cls, noted: Mapping[str, Any] | None, *, done: int, now: datetime) -> "Outage":
        """Return the outage that an earlier run noted; if an item was done since then, a new outage that begins now."""
        if noted and noted["done"] == done:
            return cls(datetime.fromisoformat(noted["since"]), done)
        return cls(now, done)

    def wait(self, now: datetime, error: Exception, *, patience: timedelta) -> timedelta | None:
        """Return how long to wait for the provider: as long as the outage so far. None if ``patience`` is exceeded.

        If ``error`` itself says how long to wait, the wait is at least that long.
        """
        away = now - self.since
        if away >= patience:
            return None
        wait = min(max(away, FIRST_WAIT), MAX_OUTAGE_WAIT)
        return min(max(wait, error.delay), patience - away) if isinstance(error, Unavailable) else wait

    def note(self) -> dict[str, Any]:
        """Return the outage as it is stored in the job's row."""
        return {"since": self.since.isoformat(), "done": self.done}


class LongRun:
    """One run of one job. ``notes`` is the job's ``resume_at``: notes of this run for the next one.

    ``kept`` counts the items that this run has committed.
    """

    def __init__(self, ctx: Context, *, notes: Mapping[str, Any] | None, deadline: datetime | None) -> None:
        self._ctx = ctx
        self.notes: dict[str, Any] = dict(notes or {})
        self.kept = 0
        self._last_start = last_start(deadline, ctx.clock())

    def require_time(self) -> None:
        """Raise TimeIsUp if the deadline is near. If this run kept nothing yet, continue: a new run would not help."""
        if self.kept and self._last_start and self._ctx.clock() >= self._last_start:
            raise TimeIsUp("its time is nearly up: another run goes on")

    async def keep(self, values: Mapping[str, Any], write: CheckpointWrite | None = None, *, items: int = 0) -> None:
        """Commit ``values`` of the job's row and the rows of ``write``; wait while the database is unavailable.

        End this run if the job was cancelled or another run took it. ``items`` is the number of finished items.
        """
        await retry_while_away(partial(self._ctx.checkpoint, values, write))
        self.kept += items

    def away_for(self) -> timedelta:
        """Return how long the provider has been unavailable, as noted by an earlier run."""
        noted = self.notes.get("away")
        return self._ctx.clock() - datetime.fromisoformat(noted["since"]) if noted else timedelta()

    async def perform(self, work: Callable[[], Awaitable[T]], *, done: Callable[[], int]) -> T | Snooze:
        """Return the result of ``work``, or a snooze, which costs no attempt.

        The job is snoozed if another job comes first, if this run's deadline is near, and while a provider is
        unavailable. If patience ends and no item was done in the meantime, the provider's error is raised. ``done``
        returns how many items of the job are done.
        """
        try:
            return await work()
        except OthersTurn as error:
            return Snooze(error.delay, str(error))
        except TimeIsUp as error:
            return Snooze(timedelta(), str(error))
        except InvalidAnswers:
            raise
        except Retryable as error:
            return await self._wait_for_provider(error, done=done())

    async def _wait_for_provider(self, error: Retryable, *, done: int) -> Snooze:
        now = self._ctx.clock()
        outage = Outage.of(None if self.kept else self.notes.get("away"), done=done, now=now)
        if (delay := outage.wait(now, error, patience=self._ctx.patience)) is None:
            raise error
        self.notes["away"] = outage.note()
        await self.keep({"resume_at": self.notes})
        return Snooze(delay, describe(error))
