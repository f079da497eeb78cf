"""The transport of httpx2 that answers with the test gateway, in threads and in event loops."""

from collections.abc import AsyncIterator, Callable, Iterator

import httpx2

from gristmill_client.testing.answers import Answer, Handling, Hold, Stream
from gristmill_client.testing.changes import Changes

Handler = Callable[[httpx2.Request], Handling]


class GatewayTransport(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """Hands requests to ``handle``; waits for changes as the client's kind of program waits."""

    def __init__(self, handle: Handler, changes: Changes) -> None:
        self._handle, self._changes = handle, changes

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        handling = self._handle(request)
        while True:
            try:
                hold = next(handling)
            except StopIteration as done:
                return _response(done.value, self._changes)
            self._changes.wait(hold.seen, hold.until)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        handling = self._handle(request)
        while True:
            try:
                hold = next(handling)
            except StopIteration as done:
                return _response(done.value, self._changes)
            await self._changes.wait_async(hold.seen, hold.until)


def _response(answer: Answer, changes: Changes) -> httpx2.Response:
    if answer.stream is None:
        return httpx2.Response(answer.status, headers=dict(answer.headers), content=answer.body)
    return httpx2.Response(answer.status, headers=dict(answer.headers), stream=_Pieces(answer.stream, changes))


class _Pieces(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """The body of a stream: ends when the client closes it."""

    def __init__(self, stream: Stream, changes: Changes) -> None:
        self._stream, self._changes = stream, changes

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._stream:
            if isinstance(piece, Hold):
                self._changes.wait(piece.seen, piece.until)
            else:
                yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._stream:
            if isinstance(piece, Hold):
                await self._changes.wait_async(piece.seen, piece.until)
            else:
                yield piece

    def close(self) -> None:
        self._stream.close()

    async def aclose(self) -> None:
        self._stream.close()
