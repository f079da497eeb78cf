"""How long a job waits for a provider or a database that is away. Pure."""

from datetime import datetime, timedelta
from typing import NamedTuple

from workers.runtime.handler.errors import RateLimited, Unavailable, describe, failure_of
from workers.runtime.handler.outcomes import Fail, Retry, Snooze

FIRST_WAIT = timedelta(seconds=5)
DATABASE_WAIT = timedelta(minutes=1)
# The reasons of such waits, and LIKE patterns that find them in a job's history: they show how long it has waited.
DATABASE_AWAY = "database cannot be used"
FOUND = "as this request found"
PROVIDER_WAITS, DATABASE_WAITS = "provider %is away%", f"{DATABASE_AWAY}%"
# How the reason of a rate-limited run ends that got its job no further: history counts such runs by it.
NO_PROGRESS = "no progress in"
# After so many of them in a row a person is told. If they last this long, the job fails.
MAX_IDLE_RUNS = 20
MAX_IDLE_TIME = timedelta(hours=6)
# If a request has failed this often and the provider answered others since, the request itself may be wrong.
FREE_FAILURES = 2
# How long a job waits for a provider that is away before it fails. None: however long.
DEFAULT_PATIENCE: timedelta | None = None


class Waited(NamedTuple):
    """How long ago a job's first wait since its last retry began, and how long ago its last wait began.

    ``found`` is how often its own request found the provider away and may itself be the cause.
    """

    first: timedelta
    last: timedelta
    found: int = 0


class IdleRuns(NamedTuple):
    """How many runs in a row before this one got their job no further, and how long ago the first of them ended."""

    many: int = 0
    first: timedelta = timedelta()


def after_idle_run(
    error: RateLimited, before: IdleRuns, *, now: datetime, max_runs: int, max_time: timedelta
) -> Snooze | Fail:
    """Return what becomes of a job after a rate-limited run in which nothing was kept.

    It is snoozed. After ``max_runs`` such runs in a row its reason says since when, and if that is as long as
    ``max_time``, it fails: another run would do no better.
    """
    count = before.many + 1
    if count < max_runs:
        return Snooze(error.delay, f"{describe(error)}, {NO_PROGRESS} this run")
    since = f"{count} runs since {now - before.first:%Y-%m-%d %H:%M} UTC"
    if before.first >= max_time:
        return Fail(f"{NO_PROGRESS} {since}: {describe(error)}")
    return Snooze(error.delay, f"{describe(error)}, {NO_PROGRESS} {since}")


def after_provider_outage(
    error: Unavailable, waited: Waited | None, *, now: datetime, patience: timedelta | None
) -> Snooze | Retry | Fail:
    """Return the settlement of a job when its provider is away: it waits until ``patience`` ends; None: however long.

    If the job's own request has failed twice before and fails again, although the provider has answered others since,
    the request itself may be the cause: the job spends an attempt. A failure that is certainly the provider's does not
    count.
    """
    own = not (error.paused or error.certain)
    if own and waited and waited.found >= FREE_FAILURES and error.answered is not None and error.answered < waited.last:
        return Retry(f"{failure_of(error)}, though it answered others")
    delay = error.delay
    if patience is not None:
        away = None if error.since is None else now - error.since
        if waited and waited.first >= patience and (away is None or away >= patience):
            hours = f"{patience / timedelta(hours=1):g} h"
            return Fail(f"{describe(error)}, and did not come back within {hours}")
        delay = min(delay, patience if waited is None else max(patience - waited.first, FIRST_WAIT))
    found = f" {FOUND}" if own else ""
    return Snooze(delay, f"{describe(error)}{found}, next try at {now + delay:%H:%M:%S} UTC")


def after_database_outage(
    error: BaseException, waited: Waited | None, *, max_time: timedelta, drawn: float
) -> Snooze | Retry:
    """Return the settlement of a job when the database is full, read-only, away or locked.

    The job waits as long as it has waited before, at most a minute. After ``max_time`` each failure spends an attempt:
    the job's own statement may be what fills the disk.
    """
    if waited and waited.first >= max_time:
        return Retry(describe(error))
    wait = min(max(waited.first if waited else FIRST_WAIT, FIRST_WAIT), DATABASE_WAIT)
    return Snooze(wait * (0.5 + drawn / 2), f"{DATABASE_AWAY}: {describe(error)}")
