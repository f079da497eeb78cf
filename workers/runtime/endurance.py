"""When a long run ends so that another goes on, and how long a job waits for a provider that is away. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

# What is in flight by then ends and is kept before the deadline.
MARGIN = timedelta(minutes=5)
FIRST_WAIT, LONGEST_WAIT = timedelta(seconds=5), timedelta(minutes=5)
# After so long without anything done each run spends an attempt: a job that can never go on comes to its end.
PATIENCE = timedelta(hours=1)


class TimeIsUp(Exception):
    """The run's deadline is near: nothing more is to be begun, and another run goes on."""


def last_call(deadline: datetime | None, now: datetime) -> datetime | None:
    """Return when to begin nothing more: five minutes before the deadline, or a tenth of the time, if that is less."""
    return deadline and deadline - min(MARGIN, (deadline - now) / 10)


@dataclass(frozen=True, slots=True)
class Outage:
    """A provider that is away since ``since``, when so much of the job was done."""

    since: datetime
    done: int

    @classmethod
    def of(cls, noted: Mapping[str, Any] | None, *, done: int, now: datetime) -> "Outage":
        """Return the outage that an earlier run noted, or one that begins now if anything was done since."""
        if noted and noted["done"] == done:
            return cls(datetime.fromisoformat(noted["since"]), done)
        return cls(now, done)

    def wait(self, now: datetime) -> timedelta | None:
        """Return how long to leave the provider alone, as long as it is away already; None at the end of patience."""
        away = now - self.since
        return None if away >= PATIENCE else min(max(away, FIRST_WAIT), LONGEST_WAIT)

    def note(self) -> dict[str, Any]:
        """Return it as the job's row keeps it."""
        return {"since": self.since.isoformat(), "done": self.done}
