"""Judge many records at once, hand over what is finished at once, and stop in time. Knows no database."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

from workers.analytics.alignment import Judged
from workers.runtime.handler.errors import InvalidAnswers, RateLimited, Refused, Retryable, describe

CONCURRENCY = 100
# So many failures alike in a row are the provider's, not the records': before anything went well, and afterwards,
# when neighbours in a file may well be bad in the same way.
FIRST_ALIKE, LATER_ALIKE = 10, 50

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Unjudged:
    """A record that could not be judged, and why."""

    record_id: UUID
    error: Exception


Finished = Judged | Unjudged


class Crew(Generic[R]):
    """Judges ``records`` by ``judge``, up to 100 at a time; ``judge`` returns its failures and raises RateLimited only.

    When the provider asks to wait, or the records cannot be read on, nothing more is begun; what is under way ends,
    for it is paid for, and is handed over before the error is raised. Leaving the block cancels everything at once.
    """

    def __init__(self, records: AsyncGenerator[R], judge: Callable[[R], Awaitable[Finished]]) -> None:
        self._records = records
        self._judge = judge
        self._todo: asyncio.Queue[R | None] = asyncio.Queue(CONCURRENCY)
        self._finished: list[Finished] = []
        self._news = asyncio.Event()
        self._error: Exception | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Crew[R]":
        self._feeder = asyncio.create_task(self._feed())
        self._tasks = [self._feeder, *(asyncio.create_task(self._work()) for _ in range(CONCURRENCY))]
        for task in self._tasks:
            task.add_done_callback(lambda _: self._news.set())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def batches(self) -> AsyncIterator[list[Finished]]:
        """Yield what finished since the last time, never nothing; raise what stopped the crew, if anything did."""
        while self._finished or not all(task.done() for task in self._tasks):
            if not self._finished:
                await self._news.wait()
            self._news.clear()
            batch, self._finished = self._finished, []
            if batch:
                yield batch
        if self._error is not None:
            raise self._error

    async def _feed(self) -> None:
        try:
            async with aclosing(self._records) as records:
                async for record in records:
                    await self._todo.put(record)
        except Exception as error:  # noqa: BLE001 - raised by batches(), after what is under way
            self._stop_for(error)
        else:
            for _ in range(CONCURRENCY):
                await self._todo.put(None)

    async def _work(self) -> None:
        while (record := await self._todo.get()) is not None:
            try:
                done = await self._judge(record)
            except Exception as error:  # noqa: BLE001 - raised by batches(), after what is under way
                self._stop_for(error)
            else:
                self._finished.append(done)
                self._news.set()

    def _stop_for(self, error: Exception) -> None:
        """Begin nothing more. Of several rate limits the longest counts."""
        known = self._error
        if known is None or (isinstance(error, RateLimited) and _delay(error) > _delay(known)):
            self._error = error
        if asyncio.current_task() is not self._feeder:
            self._feeder.cancel()
        while not self._todo.empty():
            self._todo.get_nowait()
        for _ in range(CONCURRENCY):
            self._todo.put_nowait(None)


class Doubt:
    """Holds failures back until it is plain whose they are: the records', or the provider's.

    One success frees those held, and so does a failure that can only be the record's own: the provider is at work.
    Many others alike in a row are the provider's: its error is raised, and none is written. ``succeeded`` says whether
    an earlier run of the job judged any record.
    """

    def __init__(self, *, succeeded: bool) -> None:
        self._succeeded = succeeded
        self._held: list[Unjudged] = []

    @property
    def _most(self) -> int:
        return LATER_ALIKE if self._succeeded else FIRST_ALIKE

    def _is_its_own(self, error: Exception) -> bool:
        """Tell whether only the record can be to blame. There are models that never find the form: one did, then."""
        return isinstance(error, Refused) or (self._succeeded and isinstance(error, InvalidAnswers))

    def sift(self, batch: Sequence[Finished]) -> list[Finished]:
        """Return what may be kept now."""
        kept: list[Finished] = []
        for one in batch:
            if isinstance(one, Judged) or self._is_its_own(one.error):
                kept += [*self._held, one]
                self._held, self._succeeded = [], True
            else:
                self._held.append(one)
        if len(self._held) >= self._most and not _alike(self._held):
            kept += self._held
            self._held, self._succeeded = [], True
        return kept

    def settle(self) -> None:
        """Raise the provider's error if too many failures alike are held; to be asked when the rest is kept."""
        if len(self._held) >= self._most:
            raise self._held[0].error

    def rest(self) -> list[Unjudged]:
        """Return what is held at the end, or raise its error.

        Of a job that never judged any record failures alike are its own, and so is the end of a provider that left.
        """
        held, self._held = self._held, []
        left = len(held) >= FIRST_ALIKE and isinstance(held[0].error, Retryable)
        if held and (left or not self._succeeded) and _alike(held):
            raise held[0].error
        return held


def _alike(held: Sequence[Unjudged]) -> bool:
    return len({_kind(one.error) for one in held}) == 1


def _kind(error: Exception) -> str:
    """Return what failures alike have in common. A server that is down says so in many ways; ids and counts differ."""
    if isinstance(error, Retryable):
        return Retryable.__name__
    return f"{type(error).__name__}: {re.sub(r'[0-9a-f-]*[0-9][0-9a-f-]*', '#', describe(error))}"


def _delay(error: Exception) -> float:
    return error.delay.total_seconds() if isinstance(error, RateLimited) else 0.0
