"""A minimal HTTP client with open connections, so that a comparison measures the queue and not the client.

It needs only the standard library, because peers run it in their own environments.
"""

import asyncio
from urllib.parse import urlsplit

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class HttpClient:
    """Makes any number of calls at once to one address. Opens a connection if none is idle."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self._host, self._port = parts.hostname, parts.port or 80
        self._head = f"POST {parts.path}/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\n".encode()
        self._idle: list[Connection] = []

    async def post(self, body: bytes) -> bytes:
        """Return the body of the answer; raise ConnectionError if its status is not 200."""
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection(self._host, self._port)
        writer.write(b"%sContent-Length: %d\r\n\r\n%s" % (self._head, len(body), body))
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(head.split(b"\r\n", 1)[0].decode())
        length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        answer = await reader.readexactly(length)
        self._idle.append((reader, writer))
        return answer
