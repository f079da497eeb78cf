"""Slots for running jobs in one worker process. Used on one loop."""

import asyncio
from contextlib import suppress

# A batch waits this long for its first slot; then it goes to another worker.
FIRST_SLOT_SECONDS = 2.0
# Slots become free in bursts: a short pause collects more of them.
GATHER_SECONDS = 0.004


class Slots:
    """``count`` slots. One batch at a time takes slots, so that two batches cannot starve each other."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.free = count
        self._freed = asyncio.Event()
        self._turn = asyncio.Lock()
        self._closed = False

    async def reserve(self, wanted: int) -> int:
        """Take up to ``wanted`` slots, and wait a little for the first; return 0 if closed or if none became free."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SLOT_SECONDS), self._turn:
                while not self.free and not self._closed:
                    self._freed.clear()
                    await self._freed.wait()
                    await asyncio.sleep(GATHER_SECONDS)
        reserved = 0 if self._closed else min(self.free, wanted)
        self.free -= reserved
        return reserved

    def give_back(self, count: int) -> None:
        self.free += count
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
