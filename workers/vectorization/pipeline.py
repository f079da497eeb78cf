"""Keep a provider busy: so many requests at once, the next already cut, what is finished handed to one writer."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Self

from workers.runtime.handler.errors import RateLimited
from workers.vectorization.asking import Asker, Stopped
from workers.vectorization.batches import Pending
from workers.vectorization.pending import Embedded

# A commit holds about so many vectors: an index entry costs milliseconds, and who cancels the job waits for the commit.
GROUP = 128


@dataclass(frozen=True, slots=True)
class Request:
    """Records to be embedded together, and by whom as things were when they were read."""

    records: list[Pending]
    model: str


class Pipeline:
    """Sends ``requests``, ``at_once`` of them, and hands out what came of them in groups.

    When a request fails nothing more is sent, not even what was to be tried again or taken apart; those in flight end,
    for they are paid for, and are handed out before the error is raised. Leaving the block cancels everything at once.
    While nobody takes groups, requests wait: no more is in memory than twice what is in flight.
    """

    def __init__(self, requests: AsyncGenerator[Request, None], asker: Asker, *, at_once: int) -> None:
        self._requests = requests
        self._asker = asker
        self._at_once = at_once
        self._finished: asyncio.Queue[Embedded | None] = asyncio.Queue(at_once)
        self._turn = asyncio.Lock()
        self._error: Exception | None = None
        self._senders: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._senders = [asyncio.create_task(self._send()) for _ in range(self._at_once)]
        self._end = asyncio.create_task(self._tell_end())
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [*self._senders, self._end]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._requests.aclose()

    async def groups(self) -> AsyncIterator[list[Embedded]]:
        """Yield what finished since the last time, never nothing; raise what stopped the pipeline, if anything did."""
        ended = False
        while not ended and (first := await self._finished.get()) is not None:
            group, size = [first], len(first.ids)
            while size < GROUP and not self._finished.empty() and not ended:
                if (another := self._finished.get_nowait()) is None:
                    ended = True
                else:
                    group.append(another)
                    size += len(another.ids)
            yield group
        if self._error is not None:
            raise self._error

    async def _send(self) -> None:
        try:
            while self._error is None and (request := await self._next()) is not None:
                await self._asker.ask(request.records, request.model, self._finished.put, self._has_failed)
        except Stopped:
            pass  # by the error of another sender
        except Exception as error:  # noqa: BLE001 - raised by groups(), after what is in flight
            # Of several rate limits the longest counts.
            if self._error is None or _delay(error) > _delay(self._error):
                self._error = error

    def _has_failed(self) -> bool:
        return self._error is not None

    async def _next(self) -> Request | None:
        async with self._turn:
            return None if self._error else await anext(self._requests, None)

    async def _tell_end(self) -> None:
        await asyncio.gather(*self._senders)
        await self._finished.put(None)


def _delay(error: Exception) -> float:
    return error.delay.total_seconds() if isinstance(error, RateLimited) else -1.0
