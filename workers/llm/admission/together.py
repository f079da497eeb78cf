"""Gather what many tasks ask for at about the same time, and hand it over together."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

# Under load a pause lets more gather: as long as the last batch took, within these bounds. A lone one does not wait.
MIN_GATHER_SECONDS, MAX_GATHER_SECONDS = 0.003, 0.015


class Together(Generic[T]):
    """Hands what is submitted to ``flush``, at most ``most`` at a time, in its order and one batch after the other.

    ``flush`` raises nothing: it tells each of its items what became of it.
    """

    def __init__(self, flush: Callable[[list[T]], Awaitable[None]], *, most: int) -> None:
        self._flush = flush
        self._most = most
        self._waiting: list[T] = []
        self._task: asyncio.Task[None] | None = None

    def submit(self, *items: T) -> None:
        """Hand ``items`` over with the next batch."""
        self._waiting += items
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            await asyncio.sleep(0)  # who asks in this turn of the loop too is in the first batch
            while self._waiting:
                batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                started = time.monotonic()
                await self._flush(batch)
                if len(batch) > 1:
                    took = time.monotonic() - started
                    await asyncio.sleep(min(max(took, MIN_GATHER_SECONDS), MAX_GATHER_SECONDS))
        finally:
            self._task = None

    async def finish(self, *, within: float) -> bool:
        """Return once nothing is under way, or after ``within`` seconds; tell whether all is done."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=within)
        return self._task is None and not self._waiting

    def stop(self) -> None:
        """Give up what is under way."""
        if self._task is not None:
            self._task.cancel()
