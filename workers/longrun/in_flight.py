"""Keep many requests in flight, return their results as they come, and stop after an error. Knows no database."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Generic, Self, TypeVar

from workers.runtime.handler.errors import Deferred, RateLimited

I = TypeVar("I")  # noqa: E741 - an item
R = TypeVar("R")

# About the number of results per commit. It is small, because cancelling the job waits for the commit.
MAX_GROUP_SIZE = 128


class Stopped(Exception):
    """Another request failed: send no more requests. The other request's error is already recorded."""


class InFlight(Generic[I, R]):
    """Performs ``work`` for each of ``items``, up to ``at_once`` at a time, and yields the results.

    ``work`` gets an item and this object. It calls :meth:`deliver` for each result, and :meth:`raise_if_stopped`
    before each further request. If ``work`` raises, or reading the items fails, no more work starts. Requests in flight
    are already paid for: they finish, and their results are yielded before the error is raised. Of several rate limits
    the longest is raised; without a rate limit, the first error. Leaving the block cancels everything at once. After a
    Deferred all other work is still begun, because its answers come later too; it is raised at the end.

    Up to ``at_once`` items are read ahead. If nobody takes results, work waits. So memory holds at most ``at_once``
    results and those of the requests in flight.
    """

    def __init__(
        self, items: AsyncGenerator[I], work: Callable[[I, "InFlight[I, R]"], Awaitable[None]], *, at_once: int
    ) -> None:
        self._items = items
        self._work = work
        self._at_once = at_once
        self._waiting: asyncio.Queue[I | None] = asyncio.Queue(at_once)
        self._results: asyncio.Queue[R | None] = asyncio.Queue(at_once)
        self._error: Exception | None = None
        self._deferred: Deferred | None = None

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read())
        self._workers = [asyncio.create_task(self._perform()) for _ in range(self._at_once)]
        self._end = asyncio.create_task(self._announce_end())
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [self._reader, *self._workers, self._end]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def groups(
        self, *, size: Callable[[R], int] = lambda _: 1, at_most: int = MAX_GROUP_SIZE
    ) -> AsyncIterator[list[R]]:
        """Yield the results that came since the last group, at least one. At the end, raise the error if there was one.

        A group ends with the result that brings the sum of ``size`` to ``at_most``.
        """
        ended = False
        while not ended and (first := await self._results.get()) is not None:
            group, total = [first], size(first)
            while total < at_most and not self._results.empty():
                if (another := self._results.get_nowait()) is None:
                    ended = True
                    break
                group.append(another)
                total += size(another)
            yield group
        if (error := self._error or self._deferred) is not None:
            raise error

    async def deliver(self, result: R) -> None:
        """Add one result; wait if nobody takes the results."""
        await self._results.put(result)

    def raise_if_stopped(self) -> None:
        """Raise Stopped if another request failed."""
        if self._error is not None:
            raise Stopped

    async def _read(self) -> None:
        try:
            async with aclosing(self._items) as items:
                async for item in items:
                    await self._waiting.put(item)
        except Exception as error:  # noqa: BLE001 - groups() raises it after the results in flight
            self._stop_for(error)
        else:
            for _ in range(self._at_once):
                await self._waiting.put(None)

    async def _perform(self) -> None:
        while (item := await self._waiting.get()) is not None:
            try:
                await self._work(item, self)
            except Stopped:
                pass
            except Deferred as error:
                self._deferred = self._deferred or error
            except Exception as error:  # noqa: BLE001 - groups() raises it after the results in flight
                self._stop_for(error)

    def _stop_for(self, error: Exception) -> None:
        """Record ``error`` and start no more work."""
        if self._error is None or _delay(error) > _delay(self._error):
            self._error = error
        if asyncio.current_task() is not self._reader:
            self._reader.cancel()
        while not self._waiting.empty():
            self._waiting.get_nowait()
        for _ in range(self._at_once):
            self._waiting.put_nowait(None)

    async def _announce_end(self) -> None:
        await asyncio.gather(*self._workers)
        await self._results.put(None)


def _delay(error: Exception) -> float:
    return error.delay.total_seconds() if isinstance(error, RateLimited) else -1.0
