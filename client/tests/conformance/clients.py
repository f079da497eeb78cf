"""Both clients behind one face, so that each test of the suite runs with each of them."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

from gristmill_client.http import AsyncClient, Client


class InALoop:
    """An AsyncClient in an event loop of its own thread; its operations block."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = AsyncClient(*args, **options)

    def __repr__(self) -> str:
        return repr(self._client)

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._client, name)

        def call(*args: Any, **options: Any) -> Any:
            found = operation(*args, **options)
            return self._iterate(found) if isinstance(found, AsyncIterator) else self._run(found)

        return call

    def _run(self, awaitable: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(awaitable, self._loop).result(120)

    def _iterate(self, items: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._run(anext(items))
                except StopAsyncIteration:
                    return
        finally:
            self._run(items.aclose())

    def close(self) -> None:
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


KINDS = {"threads": Client, "asyncio": InALoop}
