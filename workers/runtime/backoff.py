"""How long to wait before the next attempt. Pure."""

from collections.abc import Callable
from datetime import timedelta

BASE = timedelta(seconds=2)
CEILING = timedelta(minutes=10)
# A process retries its own servers within two seconds: with longer waits they may be back for long.
RETRY_BASE = timedelta(seconds=1)


def full_jitter(
    attempt: int,
    *,
    draw: Callable[[], float],
    base: timedelta = BASE,
    ceiling: timedelta = CEILING,
) -> timedelta:
    """Return a random delay from 0 to ``min(ceiling, base * 2 ** (attempt - 1))``; ``attempt`` counts from 1.

    Exponential backoff with full jitter: jobs that failed together are not retried together.
    ``draw`` returns a float in [0, 1).
    """
    doublings: int = min(max(attempt, 1) - 1, 32)
    return min(ceiling, base * (1 << doublings)) * draw()


def reconnect_seconds(attempt: int, *, draw: Callable[[], float]) -> float:
    """Return after how many seconds a process tries its own Postgres again: first 0 to 1, then 0 to 2."""
    return full_jitter(min(attempt, 2), draw=draw, base=RETRY_BASE).total_seconds()
