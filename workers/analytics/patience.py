"""Small patience inside one run: what may go better in a second is tried again before it counts."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from workers.runtime.backoff import full_jitter
from workers.runtime.handler.errors import Permanent, RateLimited, Unavailable

T = TypeVar("T")

ATTEMPTS = 3
BASE, CEILING = timedelta(seconds=1), timedelta(seconds=5)


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Return what ``ask`` returns, asked up to three times with a growing wait; raise its last error.

    Permanent is final, and a rate limit or an outage longer than a wait here is the job's business: raised at once.
    """
    for attempt in range(1, ATTEMPTS):
        try:
            return await ask()
        except (Permanent, RateLimited):
            raise
        except Exception as error:
            wait = full_jitter(attempt, draw=random.random, base=BASE, ceiling=CEILING)
            if isinstance(error, Unavailable) and (error.certain or error.paused):
                wait = max(wait, error.delay)
                if wait > CEILING:
                    raise
            await asyncio.sleep(wait.total_seconds())
    return await ask()
