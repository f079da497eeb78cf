"""Room for running jobs in one worker process. Lives on one loop."""

import asyncio
from contextlib import suppress

# A batch waits this long for its first slot; then another worker may have it.
PATIENCE_SECONDS = 2.0
# Slots come free in bursts: a moment's patience takes them together.
GATHER_SECONDS = 0.004


class Slots:
    """``count`` slots, taken by one batch at a time, so that two cannot starve each other."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.free = count
        self._freed = asyncio.Event()
        self._turn = asyncio.Lock()
        self._closed = False

    async def reserve(self, wanted: int) -> int:
        """Take up to ``wanted`` slots, waiting a little for the first; 0 when closed or when none came free."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS), self._turn:
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
        """Give no more; who waits for one is told so."""
        self._closed = True
        self._freed.set()

    async def all_free(self, *, within: float) -> bool:
        """Wait until nothing is taken, a slot reserved for a claim under way included; return whether that came."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while self.free < self.count:
                    self._freed.clear()
                    await self._freed.wait()
        return self.free == self.count
