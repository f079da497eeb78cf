"""Answers of the database that may be used for less than a second: one statement for all who ask at the same time."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

# A key that was revoked is refused within a second by every process; the rest is for the request that is under way.
MAX_AGE_SECONDS = 0.8
MAX_ENTRIES = 10_000
MAX_ASKED_AT_ONCE = 500


class FreshLookup(Generic[K, V]):
    """What ``ask`` answers for a key, at most MAX_AGE_SECONDS old; None if it has no answer for the key.

    While a statement runs, further questions wait for the next one. So there is one statement at a time, however many
    clients try keys.
    """

    def __init__(
        self, ask: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask, self._clock = ask, clock
        self._known: OrderedDict[K, tuple[float, V | None]] = OrderedDict()
        self._waiting: dict[K, asyncio.Future[V | None]] = {}
        self._running: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V | None:
        """Return the answer for ``key``; raise what ``ask`` raises."""
        known = self._known.get(key)
        if known is not None and self._clock() - known[0] < MAX_AGE_SECONDS:
            return known[1]
        answer = self._waiting.get(key)
        if answer is None:
            answer = self._waiting[key] = asyncio.get_running_loop().create_future()
            answer.add_done_callback(_forget_error)
        if self._running is None:
            self._running = asyncio.create_task(self._answer_waiting())
        return await asyncio.shield(answer)  # others may wait for it, too

    async def close(self) -> None:
        """Stop asking. Who waits gets CancelledError."""
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running

    async def _answer_waiting(self) -> None:
        asked: dict[K, asyncio.Future[V | None]] = {}
        try:
            while self._waiting:
                asked = {key: self._waiting.pop(key) for key in list(self._waiting)[:MAX_ASKED_AT_ONCE]}
                await self._answer(asked)
        finally:
            self._running = None
            for answer in (*asked.values(), *self._waiting.values()):
                answer.cancel()
            self._waiting.clear()

    async def _answer(self, asked: Mapping[K, asyncio.Future[V | None]]) -> None:
        asked_at = self._clock()  # the statement may see the rows as they were now
        try:
            found = await self._ask(list(asked))
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is awaited
            for answer in asked.values():
                if not answer.done():
                    answer.set_exception(error)
            return
        for key, answer in asked.items():
            self._known[key] = asked_at, found.get(key)
            self._known.move_to_end(key)
            if not answer.done():
                answer.set_result(found.get(key))
        while len(self._known) > MAX_ENTRIES:
            self._known.popitem(last=False)


def _forget_error(answer: "asyncio.Future[V | None]") -> None:
    """Let an error that nobody awaits any more pass without a warning."""
    if not answer.cancelled():
        answer.exception()
