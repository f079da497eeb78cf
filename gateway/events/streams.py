"""Send a stream of events (SSE): keep it alive, cut it when its key is revoked, end it when the process stops.

A stream is a plain ASGI answer, because thousands of idle ones must be small.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import structlog
from prometheus_client import Gauge
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.disconnects import await_disconnect
from gateway.problems import problem_of

log = structlog.get_logger(__name__)

KEEP_ALIVE_SECONDS = 15.0
RETRY_MILLISECONDS = 2_000
# After a stop, clients come back within so many milliseconds, but not all at once.
MIN_RETRY_AFTER_STOP, MAX_RETRY_AFTER_STOP = 1_000, 5_000
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # or a proxy would collect the events
]


class EndOfStream(Exception):
    """There will be no more events; ``comment`` says why, if it is not the end that was to come."""

    def __init__(self, comment: str | None = None) -> None:
        super().__init__(comment)
        self.comment = comment


class Source(Protocol):
    """Where the events of one stream come from."""

    async def take(self) -> list[bytes]:
        """Wait for events and return them; raise EndOfStream."""

    def keep_alive(self) -> bytes:
        """Return what is sent at the beginning and after a silence."""

    async def close(self) -> None:
        """Free what the stream holds."""


class Streams:
    """The open streams of a process."""

    def __init__(self, stopping: asyncio.Event, gauge: Gauge) -> None:
        self.stopping = stopping
        self._gauge = gauge
        self._wakes: set[asyncio.Event] = set()

    async def end_at_stop(self) -> None:
        """Wait until the process stops, then let every stream end."""
        await self.stopping.wait()
        for wake in self._wakes:
            wake.set()

    @contextmanager
    def open(self) -> Iterator[asyncio.Event]:
        """Yield the event that wakes one stream."""
        wake = asyncio.Event()
        self._wakes.add(wake)
        self._gauge.inc()
        try:
            yield wake
        finally:
            self._wakes.discard(wake)
            self._gauge.dec()


class EventStream(Response):
    """The answer of a route: the events of ``source``. ``check`` raises if the caller may not follow any more."""

    media_type = "text/event-stream"

    def __init__(self, source: Source, streams: Streams, *, check: Callable[[], Awaitable[None]]) -> None:
        self.status_code = 200
        self.background = None
        self.raw_headers = list(_HEADERS)
        self._source, self._streams, self._check = source, streams, check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - of every ASGI app
        gone: asyncio.Task[None] | None = None
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            with self._streams.open() as wake:
                gone = asyncio.create_task(await_disconnect(receive))
                gone.add_done_callback(lambda _: wake.set())
                await self._send_all(send, gone, wake)
        except OSError:
            pass  # the client has gone
        finally:
            if gone is not None:
                gone.cancel()
            await self._source.close()

    async def _send_all(self, send: Send, gone: "asyncio.Task[None]", wake: asyncio.Event) -> None:
        """Send events until the client has gone, or until there is a reason to end: it is a comment."""
        try:
            await _write(send, b"retry: %d\n%b" % (RETRY_MILLISECONDS, self._source.keep_alive()))
            await self._send_events(send, gone, wake)
        except EndOfStream as end:
            await _write(send, f": {end.comment}\n\n".encode() if end.comment else b"", more=False)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - the answer has begun
            await _write(send, _reason(error), more=False)

    async def _send_events(self, send: Send, gone: "asyncio.Task[None]", wake: asyncio.Event) -> None:
        taking: asyncio.Task[list[bytes]] | None = None
        try:
            while not gone.done():
                if taking is None:
                    taking = asyncio.create_task(self._source.take())
                    taking.add_done_callback(lambda _: wake.set())
                if self._streams.stopping.is_set() and not taking.done():
                    raise _end_at_stop()
                await _wait(wake, KEEP_ALIVE_SECONDS)
                await self._check()
                if taking.done():
                    events, taking = taking.result(), None
                    await _write(send, b"".join(events))
                elif not self._streams.stopping.is_set():
                    await _write(send, self._source.keep_alive())
        finally:
            if taking is not None:
                taking.cancel()
                await asyncio.gather(taking, return_exceptions=True)


async def _write(send: Send, content: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": content, "more_body": more})


def _end_at_stop() -> EndOfStream:
    """Return the end that tells a client when to come back."""
    after = random.randint(MIN_RETRY_AFTER_STOP, MAX_RETRY_AFTER_STOP)  # noqa: S311 - spreads load
    return EndOfStream(f"the server stops\nretry: {after}")


async def _wait(wake: asyncio.Event, seconds: float) -> None:
    """Wait until woken, at most so long."""
    timer = asyncio.get_running_loop().call_later(seconds, wake.set)
    try:
        await wake.wait()
    finally:
        timer.cancel()
        wake.clear()


def _reason(error: Exception) -> bytes:
    """Return why a stream is cut, as a comment."""
    detail = " ".join(problem_of(error).detail.split())
    return f": cut: {detail}\n\n".encode()
