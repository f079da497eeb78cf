"""A TCP proxy before one server. It can cut, refuse, silence, stall or slow its links, or drop an answer.

It runs on an event loop in its own thread. Every method may be called from any thread and has its effect on return.
"""

import asyncio
import random
import re
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

CHUNK = 64 * 1024
# How long a client waits for a dropped answer before its connection is reset.
SILENCE_SECONDS = 1.0
# What Postgres sends when a statement that wrote is committed: the command tag, then "ready, no transaction open".
WROTE = re.compile(rb"C\x00\x00\x00.(?:COMMIT|INSERT|UPDATE)")
COMMITTED = b"Z\x00\x00\x00\x05I"
LINGER_NOT = struct.pack("ii", 1, 0)


class Link:
    """The connection of one client, and the connection to the server for it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.ends = (client, server)
        self.silent = False

    def abort(self) -> None:
        """Reset both sides, like a router that lost its table."""
        for end in self.ends:
            with suppress(OSError, AttributeError):
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
            end.transport.abort()


class Proxy:
    """Listen on a free port of loopback and forward to ``target``. The port stays the same until the proxy closes."""

    def __init__(self, target: tuple[str, int], *, seed: int = 0) -> None:
        self.target = target
        self.port = 0
        self._random = random.Random(seed)
        self._links: set[Link] = set()
        self._forgotten: list[asyncio.StreamWriter] = []
        self._delay = 0.0
        self._loss = 0.0
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self.answers_dropped = 0

    def __enter__(self) -> Self:
        self._flowing.set()
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def cut(self) -> int:
        """Reset every link and return their number; new links are accepted."""
        return int(self._do(self._cut))

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Reset every link and refuse new ones while the block lasts."""
        self._call(self._stop_listening())
        self.cut()
        try:
            yield
        finally:
            self._call(self._listen())

    def silence(self) -> int:
        """Make every present link half-open: bytes are dropped and nothing is closed. New links work."""
        return int(self._do(self._silence))

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Hold back every byte during the block; all bytes arrive afterwards."""
        self._do(self._flowing.clear)
        try:
            yield
        finally:
            self._do(self._flowing.set)

    @contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Delay every chunk by ``seconds``, in both directions, during the block."""
        self._delay = seconds
        try:
            yield
        finally:
            self._delay = 0.0

    @contextmanager
    def losing_commits(self, share: float) -> Iterator[None]:
        """During the block, drop this share of the answers to committed writes, and reset their links."""
        self._loss = share
        try:
            yield
        finally:
            self._loss = 0.0

    # ── the proxy itself ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", self.port, backlog=1_024, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _close(self) -> None:
        await self._stop_listening()
        self._cut()
        for server in self._forgotten:
            server.transport.abort()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            answers, server = await asyncio.open_connection(*self.target)
        except OSError:
            client.transport.abort()
            return
        link = Link(client, server)
        self._links.add(link)
        pumps = [
            asyncio.ensure_future(self._pump(link, reader, server, answers=False)),
            asyncio.ensure_future(self._pump(link, answers, client, answers=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass  # closing; asyncio 3.11 reports a cancelled connection as an error of its own
        finally:
            for pump in pumps:
                pump.cancel()
            self._links.discard(link)
            if link.silent:  # the server does not learn of it either, until this proxy is closed
                client.transport.abort()
                self._forgotten.append(server)
            else:
                for end in link.ends:
                    end.close()

    async def _pump(
        self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        with suppress(OSError, asyncio.CancelledError):
            while chunk := await reader.read(CHUNK):
                if self._delay:
                    await asyncio.sleep(self._delay)
                await self._flowing.wait()
                if link.silent:
                    continue
                if answers and self._loss and self._is_lost(chunk):
                    self.answers_dropped += 1
                    await asyncio.sleep(SILENCE_SECONDS)
                    link.abort()
                    return
                writer.write(chunk)
                await writer.drain()

    def _is_lost(self, chunk: bytes) -> bool:
        return bool(chunk.endswith(COMMITTED) and WROTE.search(chunk) and self._random.random() < self._loss)

    def _cut(self) -> int:
        links = list(self._links)
        for link in links:
            link.abort()
        return len(links)

    def _silence(self) -> int:
        for link in self._links:
            link.silent = True
        return len(self._links)

    def _do(self, change: Callable[[], Any]) -> Any:
        async def do() -> Any:
            return change()

        return self._call(do())

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)
