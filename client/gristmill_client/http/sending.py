"""What both clients share: how a request of a plan becomes one of httpx2, and what a client is made of."""

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import httpx2
from pydantic import SecretStr

from gristmill_client.errors import NotPossible
from gristmill_client.http.steps import ATTEMPT_SECONDS, CONNECT_SECONDS, Request

RETRY_SECONDS = 60.0


class Bearer(httpx2.Auth):
    """Adds the API key to each request. No repr, no error and no other object shows it."""

    def __init__(self, api_key: str) -> None:
        if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
            raise NotPossible("api_key must be a key of the gateway (`gristmill keys create`), without blanks")
        self._key = SecretStr(api_key)

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        yield request


def options_of(base_url: str, api_key: str) -> dict[str, Any]:
    """Return the options of both clients of httpx2; raise NotPossible."""
    url = httpx2.URL(base_url)
    if url.scheme not in {"http", "https"} or not url.host:
        raise NotPossible("base_url must be an address like https://gristmill.example")
    if url.userinfo or url.query:
        raise NotPossible("base_url must have no password and no query: give api_key")
    return {
        "base_url": url,
        "auth": Bearer(api_key),
        "headers": {"User-Agent": f"gristmill-client/{_version()}"},
        "follow_redirects": False,
    }


def build(http: httpx2.Client | httpx2.AsyncClient, request: Request) -> httpx2.Request:
    """Return a request of httpx2; its body begins anew."""
    made = http.build_request(
        request.method,
        request.path,
        params=dict(request.params) or None,
        headers=dict(request.headers),
        content=request.body or request.content,
        data=None if request.form is None else dict(request.form),
        files=None if request.file is None else {"file": request.file},
        timeout=httpx2.Timeout(ATTEMPT_SECONDS, connect=CONNECT_SECONDS, read=request.read_seconds),
    )
    if request.body is not None:
        made.stream = request.body
    if request.on_sent is not None:
        length = made.headers.get("content-length")
        made.stream = _Counted(made.stream, request.on_sent, None if length is None else int(length))
    return made


class _Counted(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body that tells how many of its bytes were sent."""

    def __init__(self, body: Any, on_sent: Callable[[int, int | None], None], length: int | None) -> None:
        self._body, self._on_sent, self._length = body, on_sent, length

    def __iter__(self) -> Iterator[bytes]:
        sent = 0
        for piece in self._body:
            yield piece
            sent += len(piece)
            self._on_sent(sent, self._length)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        sent = 0
        async for piece in self._body:
            yield piece
            sent += len(piece)
            self._on_sent(sent, self._length)


def _version() -> str:
    try:
        return version("gristmill-client")
    except PackageNotFoundError:  # the folder itself is on the path
        return "0"
