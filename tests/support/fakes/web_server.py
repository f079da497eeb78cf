"""A real HTTP server on loopback that gives the test's answers, byte by byte if needed."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Seen:
    """One received request."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


Answer = Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class WebServer:
    """``answers`` are by path. ``seen`` holds the requests, ``connections`` counts the opened connections."""

    port: int = 0
    scheme: str = "http"
    answers: dict[str, Answer] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    def say(self, path: str, body: bytes = b"", *, status: int = 200, **headers: str) -> None:
        """Set the answer of ``path``."""

        async def answer(_seen: Seen, writer: asyncio.StreamWriter) -> None:
            lines = [f"HTTP/1.1 {status} Said", f"content-length: {len(body)}"]
            lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)

        self.answers[path] = answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._open.add(task)
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode("latin-1").split("\r\n")[:-2]
                method, target, _ = first.split(" ")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                seen = Seen(method, target, headers, await reader.readexactly(int(headers.get("content-length", 0))))
                self.seen.append(seen)
                await self.answers[target](seen, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._open.discard(task)
            writer.close()

    async def hang_up(self) -> None:
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)


@asynccontextmanager
async def web_server(*, tls: ssl.SSLContext | None = None) -> AsyncIterator[WebServer]:
    """A server on a free loopback port while the block runs."""
    web = WebServer(scheme="https" if tls else "http")
    server = await asyncio.start_server(web.serve, "127.0.0.1", 0, ssl=tls)
    web.port = server.sockets[0].getsockname()[1]
    try:
        yield web
    finally:
        server.close()
        await web.hang_up()
