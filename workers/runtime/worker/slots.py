"""Slots for running jobs in one worker process, shared out over its stages. Used on one loop."""

import asyncio
from collections import Counter
from contextlib import suppress

from workers.runtime.shares import room_beside, share_of

# A batch waits this long for its first slot; then it goes to another worker.
FIRST_SLOT_SECONDS = 2.0
# Slots become free in bursts: a short pause collects more of them.
GATHER_SECONDS = 0.004


class Slots:
    """``count`` slots that all stages share, and a little room beside them.

    A stage may hold all slots while no other stage waits. While one does, a stage that holds its share gets no more.
    Each stage runs :func:`room_beside` jobs in any case, and as many that wait behind their own stage's too large share
    of one key or owner. So the process runs a few jobs more than it has slots if somebody holds too many.
    Of each stage one batch at a time takes slots, so that two batches cannot starve each other.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.free = count
        self._held: Counter[str] = Counter()
        self._beside: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()
        self._freed = asyncio.Event()
        self._turns: dict[str, asyncio.Lock] = {}
        self._closed = False

    def take(self, stage: str, wanted: int) -> int:
        """Take up to ``wanted`` slots that are free for ``stage`` now; return how many.

        None are, if another batch of the stage has waited for longer.
        """
        return 0 if stage in self._waiting else self._take(stage, wanted)

    async def reserve(self, stage: str, wanted: int) -> int:
        """Take up to ``wanted`` slots, and wait a little for the first; return 0 if closed or if none became free."""
        self._waiting[stage] += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(FIRST_SLOT_SECONDS), self._turns.setdefault(stage, asyncio.Lock()):
                    while self._room(stage) <= 0 and not self._closed:
                        self._freed.clear()
                        await self._freed.wait()
                        await asyncio.sleep(GATHER_SECONDS)
            return self._take(stage, wanted)
        finally:
            self._waiting[stage] -= 1
            if not self._waiting[stage]:
                del self._waiting[stage]
                self._freed.set()  # a stage that gave way to this one looks again

    def room_beside(self, stage: str) -> int:
        """Return how many jobs may still run beside the slots, behind a too large share within ``stage``."""
        return 0 if self._closed else room_beside(self.count) - self._beside[stage]

    def take_beside(self, stage: str, wanted: int) -> int:
        """Take up to ``wanted`` of :meth:`room_beside`; return how many."""
        taken = max(min(self.room_beside(stage), wanted), 0)
        self._beside[stage] += taken
        self._hold(stage, taken)
        return taken

    def give_back(self, stage: str, count: int = 1, *, beside: bool = False) -> None:
        if beside:
            self._beside[stage] -= count
        self._hold(stage, -count)
        self._freed.set()

    def close(self) -> None:
        """Give out no more slots; batches that wait for one get 0."""
        self._closed = True
        self._freed.set()

    async def all_free(self, *, within: float) -> bool:
        """Wait until all slots are free, including those reserved for claims; return whether they are."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while self.free < self.count:
                    self._freed.clear()
                    await self._freed.wait()
        return self.free == self.count

    def _take(self, stage: str, wanted: int) -> int:
        taken = 0 if self._closed else max(min(self._room(stage), wanted), 0)
        self._hold(stage, taken)
        return taken

    def _hold(self, stage: str, count: int) -> None:
        self._held[stage] += count
        self.free -= count

    def _room(self, stage: str) -> int:
        """Return how many slots ``stage`` may take now."""
        held = self._held[stage]
        others_wait = any(one != stage for one in self._waiting)
        shared = self.free
        if others_wait:
            shared = min(shared, share_of(self.count) - held)
        return max(shared, room_beside(self.count) - held)
