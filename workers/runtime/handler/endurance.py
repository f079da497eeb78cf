"""How long a job waits for a provider or a database that is away. Pure."""

from datetime import datetime, timedelta
from typing import NamedTuple

from workers.runtime.handler.errors import Unavailable, describe, failure_of
from workers.runtime.handler.outcomes import Fail, Retry, Snooze

FIRST_WAIT = timedelta(seconds=5)
DATABASE_WAIT = timedelta(minutes=1)
# The reasons of such waits, and LIKE patterns that find them in a job's history: they show how long it has waited.
DATABASE_AWAY = "database cannot be used"
FOUND = "as this request found"
PROVIDER_WAITS, DATABASE_WAITS = "provider %is away%", f"{DATABASE_AWAY}%"
# If a request has failed this often and the provider answered others since, the request itself may be wrong.
FREE_FAILURES = 2
# If a job has waited this long without any progress, it fails.
DEFAULT_PATIENCE = timedelta(hours=6)


class Waited(NamedTuple):
    """How long ago a job's first wait since its last retry began, and how long ago its last wait began.

    ``found`` is how often its own request found the provider away and may itself be the cause.
    """

    first: timedelta
    last: timedelta
    found: int = 0


def after_provider_outage(
    error: Unavailable, waited: Waited | None, *, now: datetime, patience: timedelta
) -> Snooze | Retry | Fail:
    """Return the settlement of a job when its provider is away: the job waits until ``patience`` ends.

    If the job's own request has failed twice before and fails again, although the provider has answered others since,
    the request itself may be the cause: the job spends an attempt. A failure that is certainly the provider's does not
    count.
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


def after_database_outage(
    error: BaseException, waited: Waited | None, *, patience: timedelta, drawn: float
) -> Snooze | Retry:
    """Return the settlement of a job when the database is full, read-only, away or locked.

    The job waits as long as it has waited before, at most a minute. When ``patience`` has ended, each failure spends an
    attempt: the job's own statement may be what fills the disk.
    """
    if waited and waited.first >= patience:
        return Retry(describe(error))
    wait = min(max(waited.first if waited else FIRST_WAIT, FIRST_WAIT), DATABASE_WAIT)
    return Snooze(wait * (0.5 + drawn / 2), f"{DATABASE_AWAY}: {describe(error)}")
