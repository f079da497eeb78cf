"""Calls that a limit keeps back wait their turn in their process: first come, first served, one question for all.

What a limit keeps back stands in one queue, in the order of arrival. It is asked about when there may be room again:
a few at the front first, twice as many each time all of them were admitted. Nobody else asks meanwhile.
"""

import asyncio
import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Protocol

from workers.llm.admission.statements import PathKey, path_key
from workers.llm.calls import Call, NotAdmittedError

# So many are asked about at first when there may be room.
FIRST_GROUP_SIZE = 8
MAX_GROUP_SIZE = 256
# What may end before its time, as calls of other processes end, is looked at again after this.
LOOK_SECONDS = 1.0
MIN_WAIT_SECONDS = 0.01
# A refusal whose time has come in the meantime.
MIN_DELAY = timedelta(seconds=0.1)


class Reserving(Protocol):
    """What turns need of admission."""

    async def reserve_many(self, calls: Sequence[Call]) -> list[NotAdmittedError | None]: ...

    async def release(self, call: Call) -> None: ...

    def when_settled(self, listener: Callable[[Sequence[Call]], None]) -> None: ...


@dataclass(slots=True, order=True)
class _Waiter:
    arrived: int
    call: Call = field(compare=False)
    until: float = field(compare=False)
    verdict: "asyncio.Future[None]" = field(compare=False)
    queue: "_Queue | None" = field(compare=False, default=None)

    @property
    def is_admitted(self) -> bool:
        return self.verdict.done() and not self.verdict.cancelled() and self.verdict.exception() is None


@dataclass(slots=True, eq=False)
class _Queue:
    """Who waits for one limit. ``free_at`` is when there may be room, in monotonic seconds."""

    key: str
    refusal: NotAdmittedError
    free_at: float = 0.0
    waiting: list[_Waiter] = field(default_factory=list)
    paths: set[PathKey] = field(default_factory=set)
    providers: set[str] = field(default_factory=set)
    given_back: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None

    @property
    def gives_back(self) -> bool:
        return self.refusal.gives_back

    def note(self, refusal: NotAdmittedError) -> None:
        """Keep what admission has just said."""
        self.refusal = refusal
        self.free_at = time.monotonic() + max(refusal.delay.total_seconds(), MIN_WAIT_SECONDS)

    def add(self, waiter: _Waiter) -> None:
        path = path_key(waiter.call)
        self.paths.add(path)
        self.providers.add(waiter.call.provider)
        heapq.heappush(self.waiting, waiter)

    def front(self, most: int) -> list[_Waiter]:
        """Take those at the front who still wait."""
        taken: list[_Waiter] = []
        while self.waiting and len(taken) < most:
            waiter = heapq.heappop(self.waiting)
            if not waiter.verdict.done():
                taken.append(waiter)
        return taken


class Turns:
    """The turns of one process."""

    def __init__(self, admission: Reserving) -> None:
        self._admission = admission
        self._queues: dict[str, _Queue] = {}
        self._queue_of: dict[PathKey, _Queue] = {}
        self._arrivals = count()
        admission.when_settled(self._on_settled)

    def waiting(self) -> int:
        """Return how many calls wait."""
        return sum(not one.verdict.done() for queue in self._queues.values() for one in queue.waiting)

    async def admitted(self, call: Call, *, until: float | None = None) -> None:
        """Return once ``call`` is reserved; raise NotAdmittedError where that cannot be before ``until`` (monotonic).

        Without ``until`` it waits for as long as it takes.
        """
        loop = asyncio.get_running_loop()
        waiter = _Waiter(next(self._arrivals), call, float("inf") if until is None else until, loop.create_future())
        queue = self._queue_of.get(path_key(call))
        if queue is None:
            [refusal] = await self._admission.reserve_many([call])
            if refusal is None:
                return
            self._queue_up(waiter, refusal)
        else:
            self._stand(waiter, queue)
        try:
            async with asyncio.timeout_at(None if until is None else loop.time() + max(until - time.monotonic(), 0)):
                await waiter.verdict
        except TimeoutError:
            if not waiter.is_admitted:  # both may happen at once
                raise _refusal_now(waiter) from None
        except asyncio.CancelledError:
            if waiter.is_admitted:
                await asyncio.shield(asyncio.ensure_future(self._admission.release(call)))
            raise

    def _queue_up(self, waiter: _Waiter, refusal: NotAdmittedError) -> None:
        """Put a waiter that was refused where it waits from now on."""
        queue = self._queues.get(refusal.key)
        if queue is None:
            queue = self._queues[refusal.key] = _Queue(refusal.key, refusal)
        queue.note(refusal)
        self._stand(waiter, queue)

    def _stand(self, waiter: _Waiter, queue: _Queue) -> None:
        waiter.queue = queue
        if queue.free_at > waiter.until and not queue.gives_back:
            waiter.verdict.set_exception(_refusal_now(waiter))
            self._drop_if_empty(queue)
            return
        queue.add(waiter)
        self._queue_of[path_key(waiter.call)] = queue
        if queue.task is None:
            queue.task = asyncio.create_task(self._serve(queue))

    async def _serve(self, queue: _Queue) -> None:
        """Ask for those at the front whenever there may be room, until nobody waits."""
        size = FIRST_GROUP_SIZE
        try:
            while queue.waiting:
                await self._until_room(queue)
                front = queue.front(size)
                if not front:
                    continue
                queue.given_back.clear()
                verdicts = await self._ask(front)
                if not any(verdicts):
                    size = min(2 * size, MAX_GROUP_SIZE)
                    queue.free_at = 0.0
                    continue
                size = FIRST_GROUP_SIZE
                if all(one is None or one.key != queue.key for one in verdicts):
                    queue.free_at = 0.0  # others keep those back: whoever stands behind may have room
        finally:
            queue.task = None
            self._drop_if_empty(queue)

    async def _ask(self, front: Sequence[_Waiter]) -> Sequence[NotAdmittedError | None]:
        try:
            verdicts = await self._admission.reserve_many([one.call for one in front])
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            if len(front) == 1:
                if not front[0].verdict.done():
                    front[0].verdict.set_exception(error)
                return [None]
            return [verdict for one in front for verdict in await self._ask([one])]
        except BaseException:
            for one in front:
                one.verdict.cancel()
            raise
        for waiter, verdict in zip(front, verdicts, strict=True):
            if verdict is not None:
                if not waiter.verdict.done():
                    self._queue_up(waiter, verdict)
            elif waiter.verdict.done():
                await self._admission.release(waiter.call)
            else:
                waiter.verdict.set_result(None)
        return verdicts

    async def _until_room(self, queue: _Queue) -> None:
        """Return when there may be room, or when all who wait have left."""
        wait = queue.free_at - time.monotonic()
        if queue.gives_back:
            wait = min(wait, LOOK_SECONDS)
        if wait <= 0:
            return
        if not queue.gives_back:
            await asyncio.sleep(wait)
            return
        try:
            async with asyncio.timeout(wait):
                await queue.given_back.wait()
        except TimeoutError:
            return

    def _on_settled(self, ended: Sequence[Call]) -> None:
        """Ask at once for those who wait for what these calls have given back."""
        providers = {call.provider for call in ended}
        for queue in self._queues.values():
            if queue.gives_back and (queue.providers & providers):
                queue.given_back.set()

    def _drop_if_empty(self, queue: _Queue) -> None:
        if queue.waiting or queue.task is not None:
            return
        self._queues.pop(queue.key, None)
        for path in queue.paths:
            if self._queue_of.get(path) is queue:
                del self._queue_of[path]


def _refusal_now(waiter: _Waiter) -> NotAdmittedError:
    """Return what keeps a waiter back that waits no longer, with how long it still does."""
    assert waiter.queue is not None
    refusal, left = waiter.queue.refusal, timedelta(seconds=waiter.queue.free_at - time.monotonic())
    return NotAdmittedError(
        str(refusal),
        delay=max(left, MIN_DELAY),
        limit=refusal.limit,
        is_budget=refusal.is_budget,
        batch_may=refusal.batch_may,
        gives_back=refusal.gives_back,
        key=refusal.key,
    )
