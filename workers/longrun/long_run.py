"""One run of a job that takes longer than a run may: commit on the way, end in time, wait for what is away."""

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

# What is in flight by then ends and is kept before the deadline.
MARGIN = timedelta(minutes=5)
LONGEST_WAIT = timedelta(minutes=5)


class TimeIsUp(Exception):
    """The run's deadline is near: nothing more is to be begun, and another run goes on."""


class OthersTurn(Exception):
    """Another job about the same items comes first. The message names it; look again after ``delay``."""

    def __init__(self, reason: str, *, delay: timedelta) -> None:
        super().__init__(reason)
        self.delay = delay


def last_call(deadline: datetime | None, now: datetime) -> datetime | None:
    """Return when to begin nothing more: five minutes before the deadline, or a tenth of the time, if that is less."""
    return deadline and deadline - min(MARGIN, (deadline - now) / 10)


@dataclass(frozen=True, slots=True)
class Outage:
    """A provider that is away since ``since``; ``done`` items of the job were done by then."""

    since: datetime
    done: int

    @classmethod
    def of(cls, noted: Mapping[str, Any] | None, *, done: int, now: datetime) -> "Outage":
        """Return the outage that an earlier run noted, or one that begins now if anything was done since."""
        if noted and noted["done"] == done:
            return cls(datetime.fromisoformat(noted["since"]), done)
        return cls(now, done)

    def wait(self, now: datetime, error: Exception, *, patience: timedelta) -> timedelta | None:
        """Return how long to leave the provider alone: as long as it is away already. None at the end of patience.

        If ``error`` says itself how long to wait, at least that.
        """
        away = now - self.since
        if away >= patience:
            return None
        wait = min(max(away, FIRST_WAIT), LONGEST_WAIT)
        return min(max(wait, error.delay), patience - away) if isinstance(error, Unavailable) else wait

    def note(self) -> dict[str, Any]:
        """Return it as the job's row keeps it."""
        return {"since": self.since.isoformat(), "done": self.done}


class LongRun:
    """One run of one job. ``notes`` is the job's ``resume_at``: what this run tells the next one.

    ``kept`` counts the items that this run has committed.
    """

    def __init__(self, ctx: Context, *, notes: Mapping[str, Any] | None, deadline: datetime | None) -> None:
        self._ctx = ctx
        self.notes: dict[str, Any] = dict(notes or {})
        self.kept = 0
        self._last_call = last_call(deadline, ctx.clock())

    def require_time(self) -> None:
        """Raise TimeIsUp if the deadline is near. If nothing is kept yet, go on: another run would fare no better."""
        if self.kept and self._last_call and self._ctx.clock() >= self._last_call:
            raise TimeIsUp("its time is nearly up: another run goes on")

    async def keep(self, values: Mapping[str, Any], write: CheckpointWrite | None = None, *, items: int = 0) -> None:
        """Commit ``values`` of the job's row with what ``write`` adds; wait while the database is away.

        Ends this run if the job was cancelled or taken by another run. ``items`` is how many this finishes.
        """
        await retry_while_away(partial(self._ctx.checkpoint, values, write))
        self.kept += items

    def away_for(self) -> timedelta:
        """Return how long the provider is away already, by what an earlier run noted."""
        noted = self.notes.get("away")
        return self._ctx.clock() - datetime.fromisoformat(noted["since"]) if noted else timedelta()

    async def perform(self, work: Callable[[], Awaitable[T]], *, done: Callable[[], int]) -> T | Snooze:
        """Return what ``work`` returns, or how long the job is snoozed: no attempt is spent.

        It is snoozed if it is another job's turn, if this run's time is up, and while a provider is away. At the end of
        patience, with nothing done since, its error is raised. ``done`` returns how many items of the job are done.
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
