"""One asyncio loop on its own thread for the life of the process. Celery uses the main thread."""

import asyncio
import faulthandler
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

LOOP_STOP_SECONDS = 5.0


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
        """Run ``coroutine`` on the loop; return a future that other threads can wait for."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def end_process_if_stuck(self, seconds: float) -> None:
        """End the process with every thread's stack on stderr if the loop does not run for ``seconds``.

        Only one loop of a process can be watched. The watch is C code that needs no GIL, so it also works if some code
        never releases the GIL.
        """
        self._watched = True
        self._loop.call_soon_threadsafe(self._restart_watch, seconds)

    def _restart_watch(self, seconds: float) -> None:
        if self._watched:
            faulthandler.dump_traceback_later(seconds, exit=True)
            self._loop.call_later(seconds / 8, self._restart_watch, seconds)

    def stop(self) -> None:
        """Stop the watch and cancel all tasks; return when none runs, within 5 s.

        The loop itself keeps running, so a thread that still submits a coroutine gets an answer and can end.
        """
        with suppress(TimeoutError):
            self.submit(self._cancel_all()).result(timeout=LOOP_STOP_SECONDS)

    async def _cancel_all(self) -> None:
        self._watched = False
        faulthandler.cancel_dump_traceback_later()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
