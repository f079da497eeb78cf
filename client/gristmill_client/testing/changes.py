"""Who waits for a change of the test gateway, in threads and in event loops."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress


class Changes:
    """Counts changes. Whoever waits says which count it has seen, so that it misses none."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._wakers: set[Callable[[], None]] = set()
        self.count = 0

    def note(self) -> None:
        """Wake all who wait."""
        with self._condition:
            self.count += 1
            self._condition.notify_all()
            wakers = list(self._wakers)
        for wake in wakers:
            with suppress(RuntimeError):  # its event loop is closed
                wake()

    def wait(self, seen: int, until: float) -> None:
        """Return after a change since ``seen``, or at ``until`` of the monotonic clock."""
        with self._condition:
            while self.count == seen and (left := until - time.monotonic()) > 0:
                self._condition.wait(left)

    async def wait_async(self, seen: int, until: float) -> None:
        """Do what :meth:`wait` does, in an event loop."""
        changed, loop = asyncio.Event(), asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(changed.set)

        with self._condition:
            if self.count != seen:
                return
            self._wakers.add(wake)
        try:
            async with asyncio.timeout(max(until - time.monotonic(), 0.0)):
                await changed.wait()
        except TimeoutError:
            pass
        finally:
            with self._condition:
                self._wakers.discard(wake)
