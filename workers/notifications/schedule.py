"""When the next attempt of a delivery is made. Pure.

The schedule is the one that Standard Webhooks 1.0.0 recommends.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

# The wait before each attempt, the first one included.
SCHEDULE = (
    timedelta(0),
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
# Deliveries that failed together are not tried again together. A wait is never shorter than the schedule says.
JITTER = 0.2
# A longer wait is not believed.
MAX_RETRY_AFTER = timedelta(hours=24)
_SECONDS = re.compile(r"[0-9]{1,15}(\.[0-9]*)?", re.ASCII)


def delay_after(failed: int, *, draw: Callable[[], float], retry_after: timedelta | None = None) -> timedelta:
    """Return how long to wait after ``failed`` attempts of this schedule; at least as long as the receiver asks.

    ``draw`` returns a float in [0, 1).
    """
    planned = SCHEDULE[min(max(failed, 1), len(SCHEDULE) - 1)] * (1 + JITTER * draw())
    return max(planned, min(retry_after or timedelta(0), MAX_RETRY_AFTER))


def parse_retry_after(value: str | None, *, now: datetime) -> timedelta | None:
    """Return the wait that a ``Retry-After`` asks for: seconds or an HTTP date; None if it says nothing usable."""
    text = (value or "").strip()
    if _SECONDS.fullmatch(text):
        return min(timedelta(seconds=min(float(text), MAX_RETRY_AFTER.total_seconds())), MAX_RETRY_AFTER)
    try:
        at = parsedate_to_datetime(text)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return min(max(at - now, timedelta(0)), MAX_RETRY_AFTER)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
