"""How long a job waits for a provider or a database that is away. Pure."""

from datetime import datetime, timedelta
from typing import NamedTuple

from workers.runtime.handler.errors import RateLimited, Unavailable, describe, failure_of
from workers.runtime.handler.outcomes import Fail, Retry, Snooze

FIRST_WAIT = timedelta(seconds=5)
DATABASE_WAIT = timedelta(minutes=1)
# How the reasons of such waits read, as patterns of LIKE: history tells by them how long a job has waited.
DATABASE_AWAY = "database cannot be used"
FOUND = "as this request found"
PROVIDER_WAITS, DATABASE_WAITS = "provider %is away%", f"{DATABASE_AWAY}%"
# How the reason of a rate-limited run ends that got its job no further: history counts such runs by it.
NO_PROGRESS = "no progress in"
# After so many of them in a row a person is told.
MAX_IDLE_RUNS = 20
# A request that failed so often by itself, each time while others were answered later, may be at fault.
FREE_FAILURES = 2
# After so long without anything done a job that can never go on comes to its end.
PATIENCE = timedelta(hours=6)


class Waited(NamedTuple):
    """How long ago a job first waited for what is away since its last retry, and how long ago it last did at all.

    ``found`` is how often its own request found the provider away in a way that may be the request's own fault.
    """

    first: timedelta
    last: timedelta
    found: int = 0


class IdleRuns(NamedTuple):
    """How many runs in a row before this one got their job no further, and how long ago the first of them ended."""

    many: int = 0
    first: timedelta = timedelta()


def after_idle_run(
    error: RateLimited, before: IdleRuns, *, now: datetime, most: int, patience: timedelta
) -> Snooze | Fail:
    """Return what becomes of a job after a rate-limited run in which nothing was kept.

    It is snoozed. After ``most`` such runs in a row its reason says since when, and if that is as long as ``patience``,
    it fails: another run would do no better.
    """
    count = before.many + 1
    if count < most:
        return Snooze(error.delay, f"{describe(error)}, {NO_PROGRESS} this run")
    since = f"{count} runs since {now - before.first:%Y-%m-%d %H:%M} UTC"
    if before.first >= patience:
        return Fail(f"{NO_PROGRESS} {since}: {describe(error)}")
    return Snooze(error.delay, f"{describe(error)}, {NO_PROGRESS} {since}")


def after_outage(
    error: Unavailable, waited: Waited | None, *, now: datetime, patience: timedelta
) -> Snooze | Retry | Fail:
    """Return what becomes of a job whose provider is away: it waits, until patience ends.

    A job whose own request has failed twice before, and fails again though the provider has answered others since, may
    itself be what the provider cannot take: it spends an attempt. A failure that speaks of the provider whatever was
    asked is no such.
    """
    own = not (error.paused or error.certain)
    if own and waited and waited.found >= FREE_FAILURES and error.answered is not None and error.answered < waited.last:
        return Retry(f"{failure_of(error)}, though it answered others")
    away = None if error.since is None else now - error.since
    if waited and waited.first >= patience and (away is None or away >= patience):
        hours = f"{patience / timedelta(hours=1):g} h"
        return Fail(f"{describe(error)}, and did not come back within {hours}")
    left = patience if waited is None else max(patience - waited.first, FIRST_WAIT)
    delay = min(error.delay, left)
    found = f" {FOUND}" if own else ""
    return Snooze(delay, f"{describe(error)}{found}, next try at {now + delay:%H:%M:%S} UTC")


def without_database(
    error: BaseException, waited: Waited | None, *, patience: timedelta, drawn: float
) -> Snooze | Retry:
    """Return what becomes of a job whose run met a database that is full, read-only, away, or locked by somebody.

    It waits, as long again as it has, at most a minute. At the end of patience it spends an attempt each time: there
    are statements that fill a disk by themselves.
    """
    if waited and waited.first >= patience:
        return Retry(describe(error))
    wait = min(max(waited.first if waited else FIRST_WAIT, FIRST_WAIT), DATABASE_WAIT)
    return Snooze(wait * (0.5 + drawn / 2), f"{DATABASE_AWAY}: {describe(error)}")
