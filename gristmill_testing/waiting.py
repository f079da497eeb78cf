"""Wait for a condition instead of a guessed time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

MAX_WAIT_SECONDS = 10.0
WAIT_POLL_SECONDS = 0.01


async def until(condition: Callable[[], object | Awaitable[object]], *, within: float = MAX_WAIT_SECONDS) -> None:
    """Return once ``condition`` holds; fail the test if it does not hold within ``within`` seconds."""
    deadline = time.monotonic() + within
    while True:
        answer = condition()
        if await answer if inspect.isawaitable(answer) else answer:
            return
        assert time.monotonic() < deadline, f"did not hold within {within:g} s: {inspect.getsource(condition).strip()}"
        await asyncio.sleep(WAIT_POLL_SECONDS)


def wait_until(condition: Callable[[], object], *, within: float = MAX_WAIT_SECONDS) -> None:
    """Do the same as :func:`until` in a test without an event loop."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"did not hold within {within:g} s: {inspect.getsource(condition).strip()}"
        time.sleep(WAIT_POLL_SECONDS)
