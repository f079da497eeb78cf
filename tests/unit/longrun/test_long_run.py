"""A long run ends in time, waits for its provider, and leaves notes for the next run."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from workers.longrun.long_run import LongRun, OthersTurn, Outage, TimeIsUp, last_start
from workers.runtime.handler.context import Context
from workers.runtime.handler.errors import InvalidAnswers, Permanent, RateLimited, Retryable, Unavailable
from workers.runtime.handler.outcomes import Snooze

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
PATIENCE = timedelta(hours=6)


class Surroundings:
    """A run's context with a clock that the test sets; ``kept`` holds the commits in order."""

    def __init__(self) -> None:
        self.now = NOW
        self.kept: list[Mapping[str, Any]] = []

    def run(self, **options: Any) -> LongRun:
        context = SimpleNamespace(clock=lambda: self.now, checkpoint=self._checkpoint, patience=PATIENCE)
        return LongRun(cast("Context", context), **{"notes": None, "deadline": NOW + timedelta(hours=1), **options})

    async def _checkpoint(self, values: Mapping[str, Any], _write: object = None) -> None:
        self.kept.append(dict(values))


async def performed(run: LongRun, error: Exception, *, done: int = 0) -> object:
    """Return the outcome of a run that ends with ``error``."""

    async def work() -> None:
        raise error

    return await run.perform(work, done=lambda: done)


def test_outage_waits_as_long_as_the_provider_asks_within_patience() -> None:
    """``Retry-After`` lengthens the wait; the end of patience shortens it."""
    outage = Outage(NOW - timedelta(minutes=1), done=0)
    asked = Unavailable("HTTP 503", asked=timedelta(minutes=20))

    assert outage.wait(NOW, asked, patience=PATIENCE) == timedelta(minutes=20)
    assert outage.wait(NOW, asked, patience=timedelta(minutes=3)) == timedelta(minutes=2)
    assert outage.wait(NOW, Retryable("broken answer"), patience=PATIENCE) == timedelta(minutes=1)
    assert outage.wait(NOW, asked, patience=timedelta(minutes=1)) is None


def test_nothing_is_begun_in_the_last_minutes() -> None:
    """No work starts in the last 5 minutes, or in the last tenth of a short run; without a deadline it always may."""
    assert last_start(NOW + timedelta(hours=6), NOW) == NOW + timedelta(hours=6) - timedelta(minutes=5)
    assert last_start(NOW + timedelta(minutes=10), NOW) == NOW + timedelta(minutes=9)
    assert last_start(None, NOW) is None


async def test_run_with_little_time_ends_only_if_it_has_kept_anything() -> None:
    """Otherwise no run would ever make progress."""
    around = Surroundings()
    run = around.run()
    around.now += timedelta(minutes=56)

    run.require_time()
    await run.keep({"progress": 1}, items=3)

    with pytest.raises(TimeIsUp, match="its time is nearly up"):
        run.require_time()
    assert run.kept == 3


@pytest.mark.parametrize(
    ("error", "delay", "reason"),
    [
        (OthersTurn("job 1 is older", delay=timedelta(seconds=30)), timedelta(seconds=30), "job 1 is older"),
        (TimeIsUp("its time is nearly up"), timedelta(), "its time is nearly up"),
        (Retryable("HTTP 503"), timedelta(seconds=5), "HTTP 503"),
        (Unavailable("gone", delay=timedelta(minutes=2)), timedelta(minutes=2), "provider is away: gone"),
    ],
)
async def test_errors_that_waiting_can_resolve_snooze_the_job(error: Exception, delay: timedelta, reason: str) -> None:
    """The snooze costs no attempt."""
    assert await performed(Surroundings().run(), error) == Snooze(delay, reason)


@pytest.mark.parametrize(
    "error", [Permanent("no"), InvalidAnswers("not JSON"), RateLimited("slow", delay=timedelta(seconds=1)), KeyError()]
)
async def test_every_other_error_is_raised_to_the_kernel(error: Exception) -> None:
    """This includes a model that never answers in the requested form, which is not an outage."""
    with pytest.raises(type(error)):
        await performed(Surroundings().run(), error)


async def test_next_run_knows_since_when_the_provider_is_away() -> None:
    """Waits grow from run to run until patience ends. If an item was done in the meantime, a new outage begins."""
    around = Surroundings()
    await performed(around.run(), Retryable("HTTP 503"), done=7)
    notes = around.kept[-1]["resume_at"]
    around.now += timedelta(minutes=3)

    same, other = around.run(notes=notes), around.run(notes=notes)

    assert notes["away"] == {"since": NOW.isoformat(), "done": 7}
    assert same.away_for() == timedelta(minutes=3)
    assert await performed(same, Retryable("HTTP 503"), done=7) == Snooze(timedelta(minutes=3), "HTTP 503")
    assert await performed(other, Retryable("HTTP 503"), done=8) == Snooze(timedelta(seconds=5), "HTTP 503")


async def test_at_the_end_of_patience_the_error_is_raised() -> None:
    """This is the case if no item was done since the outage began."""
    around = Surroundings()
    await performed(around.run(), Retryable("HTTP 503"), done=7)
    around.now += PATIENCE

    with pytest.raises(Retryable, match="HTTP 503"):
        await performed(around.run(notes=around.kept[-1]["resume_at"]), Retryable("HTTP 503"), done=7)
