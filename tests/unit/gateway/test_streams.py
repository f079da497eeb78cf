"""The answer that sends a stream of events."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from prometheus_client import Gauge

from gateway.events import streams as module
from gateway.events.streams import EndOfStream, EventStream, Streams
from gateway.problems import Unauthenticated
from gristmill_testing.waiting import until


class Listed:
    """A source of the listed events; then it waits, or ends."""

    def __init__(self, *events: bytes, ends: EndOfStream | Exception | None = None) -> None:
        self.events, self.ends = [*events], ends
        self.is_closed = False

    async def take(self) -> list[bytes]:
        if self.events:
            return [self.events.pop(0)]
        if self.ends:
            raise self.ends
        await asyncio.Event().wait()
        raise AssertionError

    def keep_alive(self) -> bytes:
        return b":\n\n"

    async def close(self) -> None:
        self.is_closed = True


class Client:
    """What a client of a stream receives; it goes away when ``gone`` is set."""

    def __init__(self, source: Listed, check: Callable[[], Awaitable[None]] | None = None) -> None:
        self.source, self.gone = source, asyncio.Event()
        self.gauge = Gauge("streams", "x", registry=None)
        self.streams = Streams(asyncio.Event(), self.gauge)
        self.body, self.is_complete = b"", False
        self._check = check or _allowed

    async def run(self) -> None:
        await EventStream(self.source, self.streams, check=self._check)({}, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            assert (b"content-type", b"text/event-stream; charset=utf-8") in message["headers"]
        else:
            self.body += message["body"]
            self.is_complete = not message["more_body"]


async def _allowed() -> None:
    pass


async def test_a_stream_ends_with_its_source():
    """All events are sent; the answer is complete."""
    client = Client(Listed(b"id: 1\ndata: a\n\n", b"id: 2\ndata: b\n\n", ends=EndOfStream()))

    await client.run()

    assert client.body == b"retry: 2000\n:\n\nid: 1\ndata: a\n\nid: 2\ndata: b\n\n"
    assert client.is_complete
    assert client.source.is_closed
    assert client.gauge._value.get() == 0


async def test_a_silent_stream_is_kept_alive(monkeypatch):
    """By comments, until the client goes away."""
    monkeypatch.setattr(module, "KEEP_ALIVE_SECONDS", 0.01)
    client = Client(Listed())
    running = asyncio.create_task(client.run())

    await until(lambda: client.body.count(b":\n\n") > 3)
    client.gone.set()
    await asyncio.wait_for(running, 5)

    assert client.source.is_closed
    assert not client.is_complete


async def test_a_stop_tells_clients_when_to_come_back():
    """The events that are there are sent before."""
    client = Client(Listed(b"id: 1\ndata: a\n\n"))
    running = asyncio.create_task(client.run())
    ending = asyncio.create_task(client.streams.end_at_stop())
    await until(lambda: b"data: a" in client.body)
    assert client.gauge._value.get() == 1

    client.streams.stopping.set()
    await asyncio.wait_for(asyncio.gather(running, ending), 5)

    *_, end = client.body.split(b"\n\n")[:-1]
    comment, retry = end.split(b"\n")
    assert comment == b": the server stops"
    assert 1_000 <= int(retry.removeprefix(b"retry: ")) <= 5_000
    assert client.is_complete


async def test_a_stream_that_opens_during_a_stop_ends_at_once():
    client = Client(Listed())
    client.streams.stopping.set()

    await asyncio.wait_for(client.run(), 5)

    assert b"the server stops" in client.body


async def test_a_revoked_key_gets_no_further_event():
    """Not even one that was read already. The reason is a comment."""
    checks: list[bool] = []

    async def check() -> None:
        checks.append(True)
        if len(checks) > 1:
            raise Unauthenticated("the key or token is not valid")

    client = Client(Listed(b"data: a\n\n", b"data: secret\n\n"), check)

    await asyncio.wait_for(client.run(), 5)

    assert b"data: a" in client.body
    assert b"secret" not in client.body
    assert client.body.endswith(b": cut: the key or token is not valid\n\n")
    assert client.is_complete


@pytest.mark.parametrize(
    ("ends", "comment"),
    [
        (EndOfStream("too slow: come back with the last id"), b": too slow: come back with the last id\n\n"),
        (RuntimeError("the secret reason"), b": cut: the request failed"),
    ],
)
async def test_a_source_that_breaks_says_why_in_a_comment(ends, comment):
    """Never with what nobody may see."""
    client = Client(Listed(ends=ends))

    await asyncio.wait_for(client.run(), 5)

    assert comment in client.body
    assert b"secret" not in client.body
    assert client.is_complete


async def test_a_client_that_breaks_off_while_it_is_written_to_ends_quietly():
    class Broken(Client):
        async def _send(self, message: Any) -> None:
            if b"data" in message.get("body", b""):
                raise BrokenPipeError
            await super()._send(message)

    client = Broken(Listed(b"data: a\n\n"))

    await asyncio.wait_for(client.run(), 5)

    assert client.source.is_closed
