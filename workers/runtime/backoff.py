"""How long to wait before the next attempt. Pure."""

from collections.abc import Callable
from datetime import timedelta

BASE = timedelta(seconds=2)
CEILING = timedelta(minutes=10)
# A process tries its own servers again within two seconds: whoever waits longer waits for one that is back.
RETRY_BASE = timedelta(seconds=1)


def full_jitter(
    attempt: int,
    *,
    draw: Callable[[], float],
    base: timedelta = BASE,
    ceiling: timedelta = CEILING,
) -> timedelta:
    """Return a delay drawn evenly from 0 to ``min(ceiling, base * 2 ** (attempt - 1))``; ``attempt`` counts from 1.

    Exponential backoff with full jitter: retries of jobs that failed together do not return together.
    ``draw`` returns a float in [0, 1).
    """
    doublings: int = min(max(attempt, 1) - 1, 32)
    return min(ceiling, base * (1 << doublings)) * draw()


def soon(attempt: int, *, draw: Callable[[], float]) -> float:
    """Return in how many seconds a process tries its own Postgres again: at once or within one, then within two."""
    return full_jitter(min(attempt, 2), draw=draw, base=RETRY_BASE).total_seconds()
