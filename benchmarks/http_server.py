"""A provider that gives the same answer to every chat completion after 200 ms. A call needs very little CPU time.

``python -m benchmarks.http_server --delay 0.2`` prints its base URL. ``GET /stats`` returns the number of calls and the
largest number of calls at once.
"""

import argparse
import asyncio
import contextlib
import json

ANSWER = json.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 0,
        "model": "bench",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": '{"overall": 50.0}'}}
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }
).encode()


def _response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


OK = _response(ANSWER)


class Counters:
    """The number of calls so far."""

    def __init__(self) -> None:
        self.calls = self.at_once = self.most_at_once = 0

    def began(self) -> None:
        self.calls += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)


class Provider(asyncio.Protocol):
    """One client's connection. It answers requests one after the other, with a delay."""

    def __init__(self, counters: Counters, delay: float) -> None:
        self._counters = counters
        self._delay = delay
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            _, found, rest = head.partition(b"content-length:")
            length = int(rest.split(b"\r\n", 1)[0]) if found else 0
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        if head.startswith(b"get /stats"):
            counters = {"calls": self._counters.calls, "most_at_once": self._counters.most_at_once}
            self._counters.calls = self._counters.most_at_once = 0
            self._send(_response(json.dumps(counters).encode()))
            return
        self._counters.began()
        asyncio.get_running_loop().call_later(self._delay, self._finish)

    def _finish(self) -> None:
        self._counters.at_once -= 1
        self._send(OK)

    def _send(self, response: bytes) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(response)


async def serve(*, delay: float, port: int = 0) -> None:
    """Serve on loopback until cancelled; print the base URL first."""
    counters = Counters()
    server = await asyncio.get_running_loop().create_server(
        lambda: Provider(counters, delay), "127.0.0.1", port, backlog=4_096
    )
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.2, help="seconds before every answer")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(delay=arguments.delay, port=arguments.port))
