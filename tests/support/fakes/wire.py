"""A TCP proxy that can lose the answer to one request: the server executed it, but the client gets no answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from sqlalchemy import make_url

# The end of each answer of Postgres. An autocommitted statement is durable by then.
READY_FOR_QUERY = b"Z\x00\x00\x00\x05"


class Wire:
    """Forwards connections to ``host:port``. :meth:`lose_answer` closes a connection after its request was executed."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._to_lose: bytes | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self.lost = 0
        self._to_keep: bytes | None = None
        self._let_go = asyncio.Event()
        self.kept = 0
        self._silent: set[asyncio.StreamWriter] = set()
        self._open: set[asyncio.StreamWriter] = set()

    def lose_answer(self, marker: bytes) -> None:
        """Close the next connection that sends ``marker`` once the server has answered."""
        self._to_lose = marker

    def keep_answer(self, marker: bytes) -> None:
        """Hold back the answer to the next request with ``marker`` until :meth:`let_go`."""
        self._to_keep = marker
        self._let_go.clear()

    def let_go(self) -> None:
        """Deliver the answer that was held back."""
        self._let_go.set()

    def fall_silent(self) -> None:
        """Stop forwarding on all open connections, in both directions, without closing them."""
        self._silent |= self._open

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one client's bytes in both directions until one side ends."""
        client = asyncio.current_task()
        assert client
        self._clients.add(client)
        client.add_done_callback(self._clients.discard)
        server_reader, server_writer = await asyncio.open_connection(self._host, self._port)
        doomed, slow = asyncio.Event(), asyncio.Event()
        ends = {writer, server_writer}
        self._open |= ends
        forth = asyncio.create_task(self._forward(reader, server_writer, doomed, slow))
        back = asyncio.create_task(self._answer(server_reader, writer, doomed, slow))
        try:
            await asyncio.wait([forth, back], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (forth, back):
                task.cancel()
            await asyncio.gather(forth, back, return_exceptions=True)
            self._open -= ends
            for end in ends:
                end.close()
                with suppress(OSError):
                    await end.wait_closed()

    async def hang_up(self) -> None:
        """Close every connection and wait until its sockets are closed."""
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event, slow: asyncio.Event
    ) -> None:
        while data := await reader.read(65_536):
            if self._to_lose and self._to_lose in data:
                self._to_lose = None
                doomed.set()
            if self._to_keep and self._to_keep in data:
                self._to_keep = None
                slow.set()
            await self._pass_on(data, writer)

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event, slow: asyncio.Event
    ) -> None:
        while data := await reader.read(65_536):
            if doomed.is_set():
                if READY_FOR_QUERY in data:
                    self.lost += 1
                    return
                continue
            if slow.is_set():
                self.kept += 1
                await self._let_go.wait()
                slow.clear()
            await self._pass_on(data, writer)

    async def _pass_on(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if writer not in self._silent:
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def wire_to(url: str) -> AsyncIterator[tuple[str, Wire]]:
    """Yield a URL of the same server through a new proxy, and the proxy."""
    target = make_url(url)
    assert target.host
    assert target.port
    wire = Wire(target.host, target.port)
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield target.set(host="127.0.0.1", port=port).render_as_string(hide_password=False), wire
    finally:
        server.close()
        await wire.hang_up()
