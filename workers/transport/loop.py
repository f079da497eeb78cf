"""One asyncio loop on a thread of its own, for the whole life of a process whose main thread belongs to Celery."""

import asyncio
import faulthandler
import gc
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

STOP_SECONDS = 5.0


class LoopThread:
    """A running loop that other threads submit coroutines to."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._watched = False

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def start(self) -> None:
        """Start the loop; its thread ends with the process."""
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run ``coroutine`` on the loop; the returned future belongs to the calling thread's world."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def end_process_if_stuck(self, seconds: float) -> None:
        """End the process, every thread's stack on stderr, once the loop has not turned for ``seconds``.

        For one loop of a process. The watch is C code that needs no GIL: it sees code that never gives that back, too.
        """
        self._watched = True
        self._loop.call_soon_threadsafe(self._turn, seconds)

    def _turn(self, seconds: float) -> None:
        if self._watched:
            faulthandler.dump_traceback_later(seconds, exit=True)
            self._loop.call_later(seconds / 8, self._turn, seconds)

    def stop(self) -> None:
        """Cancel what runs and watch the loop no more; return when nothing runs, within 5 s.

        The loop itself goes on turning: a thread that submits something even now gets an answer and can end.
        """
        with suppress(TimeoutError):
            self.submit(self._cancel_all()).result(timeout=STOP_SECONDS)

    async def _cancel_all(self) -> None:
        self._watched = False
        faulthandler.cancel_dump_traceback_later()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def spare_the_collector() -> None:
    """Exempt what is loaded by now from garbage collection, and collect less often: jobs die by reference count.

    A process of ours holds more than 100,000 objects of its libraries for life; looking through them again and again
    took a third of a busy worker's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
