"""Retry a request within one run, before it counts as failed."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from workers.runtime.backoff import full_jitter
from workers.runtime.handler.errors import Permanent, RateLimited, Unavailable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a request is sent, and how long to wait between attempts: from ``base`` up to ``ceiling``."""

    attempts: int
    base: timedelta
    ceiling: timedelta


FEW_RETRIES = Retries(attempts=3, base=timedelta(seconds=1), ceiling=timedelta(seconds=5))


async def with_retries(ask: Callable[[], Awaitable[T]], retries: Retries = FEW_RETRIES) -> T:
    """Return the result of ``ask``. If it fails, retry with growing waits; raise the last error.

    Permanent is raised at once. So are a rate limit and an outage that is longer than a wait here: for these the job
    waits.
    """
    for attempt in range(1, retries.attempts):
        try:
            return await ask()
        except (Permanent, RateLimited):
            raise
        except Exception as error:  # noqa: BLE001 - raised by the next line or by the last attempt
            await asyncio.sleep(wait_before_retry(attempt, error, retries).total_seconds())
    return await ask()


def wait_before_retry(attempt: int, error: Exception, retries: Retries) -> timedelta:
    """Return the wait before the next attempt; raise ``error`` if its provider stays unavailable for longer."""
    wait = full_jitter(attempt, draw=random.random, base=retries.base, ceiling=retries.ceiling)
    if isinstance(error, Unavailable) and (error.certain or error.paused):
        wait = max(wait, error.delay)
        if wait > retries.ceiling:
            raise error
    return wait
