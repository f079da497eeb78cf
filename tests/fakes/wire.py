"""A TCP line to a server that can lose the answer to one request: the server did it, the client never hears."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from sqlalchemy import make_url

READY_FOR_QUERY = b"Z\x00\x00\x00\x05"  # how Postgres ends every answer; an autocommitted statement is durable by then


class Wire:
    """Forwards connections to ``host:port``. :meth:`lose_answer` cuts the line after one request was carried out."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._to_lose: bytes | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self.lost = 0

    def lose_answer(self, marker: bytes) -> None:
        """Cut the next connection that sends ``marker``, once the server has answered it."""
        self._to_lose = marker

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one client's bytes both ways until either side ends."""
        server_reader, server_writer = await asyncio.open_connection(self._host, self._port)
        doomed = asyncio.Event()
        forth = asyncio.create_task(self._forward(reader, server_writer, doomed))
        back = asyncio.create_task(self._answer(server_reader, writer, doomed))
        try:
            await asyncio.wait([forth, back], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (forth, back):
                task.cancel()
            await asyncio.gather(forth, back, return_exceptions=True)
            for end in (writer, server_writer):
                end.close()
                with suppress(OSError):
                    await end.wait_closed()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        while data := await reader.read(65_536):
            if self._to_lose and self._to_lose in data:
                self._to_lose = None
                doomed.set()
            writer.write(data)
            await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        while data := await reader.read(65_536):
            if doomed.is_set():
                if READY_FOR_QUERY in data:
                    self.lost += 1
                    return
                continue
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def wire_to(url: str) -> AsyncIterator[tuple[str, Wire]]:
    """Yield a URL that leads to the same server by a new line, and the line."""
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
