"""HTTP to addresses that users name: limited in time and size, and never to an address inside the network.

Proxies in the environment are ignored, because a proxy would resolve the name again without the check.
"""

import asyncio
import re
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

import httpcore2
import httpx2

from workers.outbound.addresses import Network
from workers.outbound.destinations import Destination, GuardedNetwork, Resolve, look_up, parse_destination
from workers.runtime.handler.errors import Permanent, Retryable
from workers.runtime.handler.outside import ForbiddenDestination, HttpAnswer, Request

MAX_CONNECTIONS, MAX_IDLE_CONNECTIONS, IDLE_SECONDS = 200, 20, 5.0
MAX_REDIRECTS = 10
# Of a body that may be cut, what arrives within this time.
CUT_BODY_SECONDS = 1.0
# Data that cannot be compressed grows when it is compressed.
MAX_GZIP_OVERHEAD_BYTES = 65_536
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
# A caller must not set the headers that describe the message or the connection.
RESERVED_HEADERS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade", "expect"}
)
# After a redirect to another origin, only these headers are sent.
PUBLIC_HEADERS = frozenset({"accept", "accept-language", "user-agent", "if-none-match", "if-modified-since"})
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

USER_AGENT = f"gristmill/{version('gristmill')}"


class SafeHttp:
    """One pool of connections per process. ``allow`` admits addresses inside the network, for development."""

    def __init__(
        self,
        *,
        allow: Sequence[Network] = (),
        seconds: float = 30.0,
        connect_seconds: float = 5.0,
        max_bytes: int = 10 * 1024 * 1024,
        max_connections: int = MAX_CONNECTIONS,
        resolve: Resolve = look_up,
    ) -> None:
        self._seconds, self._connect_seconds, self._max_bytes = seconds, connect_seconds, max_bytes
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpx2.create_ssl_context(),
            max_connections=max_connections,
            max_keepalive_connections=MAX_IDLE_CONNECTIONS,
            keepalive_expiry=IDLE_SECONDS,
            network_backend=GuardedNetwork(allow=allow, resolve=resolve),
        )

    async def send(self, request: Request) -> HttpAnswer:
        """Send ``request`` once, follow redirects if it allows them, return the answer; raise as :class:`Http` says."""
        where, headers = parse_destination(request.url), _check_headers(request.headers)
        seconds = self._seconds if request.seconds is None else request.seconds
        with _translated_errors(where):
            async with asyncio.timeout(seconds):
                return await self._follow(request, where, headers)

    async def _follow(self, request: Request, where: Destination, headers: dict[str, str]) -> HttpAnswer:
        left = min(request.redirects, MAX_REDIRECTS) if request.method in {"GET", "HEAD"} else 0
        while True:
            answer = await self._send_once(request, where, headers)
            if not left or answer.status not in REDIRECT_STATUSES or "location" not in answer.headers:
                if request.redirects and answer.status in REDIRECT_STATUSES and "location" in answer.headers:
                    raise Permanent(f"{where.loggable} redirected more than {request.redirects} times")
                return answer
            left -= 1
            after = _resolve_redirect(where, answer.headers["location"])
            if after.origin != where.origin:
                headers = {name: value for name, value in headers.items() if name in PUBLIC_HEADERS}
            where = after

    async def _send_once(self, request: Request, where: Destination, headers: Mapping[str, str]) -> HttpAnswer:
        host = where.url.netloc.decode("ascii")
        sent = {"accept-encoding": "gzip", "user-agent": USER_AGENT, **headers, "host": host}
        if request.body or request.method in {"POST", "PUT", "PATCH"}:
            sent["content-length"] = str(len(request.body))
        limit = self._max_bytes if request.max_bytes is None else request.max_bytes
        async with self._stream(request, where, sent) as response:
            found = _join_headers(response.headers)
            if request.method == "HEAD":
                body = b""
            elif request.cuts_body:
                body = await _read_start(response, limit=limit)
            else:
                body = await _read_body(response, found, limit=limit, where=where)
            stream = response.extensions.get("network_stream")
            address = stream.get_extra_info("server_addr") if stream else None
            return HttpAnswer(
                status=response.status,
                headers=found,
                body=body,
                url=str(where.url),
                address=str(address[0]) if address else "",
            )

    @asynccontextmanager
    async def _stream(
        self, request: Request, where: Destination, headers: Mapping[str, str]
    ) -> AsyncIterator[httpcore2.Response]:
        url = httpcore2.URL(
            scheme=where.url.raw_scheme, host=where.url.raw_host, port=where.port, target=where.url.raw_path
        )
        timeouts = {"connect": self._connect_seconds, "pool": self._connect_seconds}
        pairs = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
        async with self._pool.stream(
            request.method, url, headers=pairs, content=request.body or None, extensions={"timeout": timeouts}
        ) as response:
            yield response

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()


class _translated_errors:  # noqa: N801 - used like a function: `with _translated_errors(where):`
    """Raises the library's errors as Retryable or Permanent; the text has no path and no query."""

    def __init__(self, where: Destination) -> None:
        self._where = where

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        match error:
            case TimeoutError() | httpcore2.TimeoutException():
                raise Retryable(f"{self._where.loggable} did not answer in time") from None
            case httpcore2.LocalProtocolError() | httpcore2.UnsupportedProtocol():
                raise Permanent(f"request to {self._where.loggable} cannot be written ({error})") from None
            case httpcore2.NetworkError() | httpcore2.ProtocolError() | OSError():
                raise Retryable(f"{self._where.loggable} cannot be reached ({type(error).__name__})") from None


def _check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return ``headers`` with names in lower case; raise Permanent if one could change the message itself."""
    checked: dict[str, str] = {}
    for name, value in headers.items():
        low = name.lower()
        if low in RESERVED_HEADERS or low.startswith("proxy-") or not _NAME.fullmatch(name):
            raise Permanent(f"header {name[:80]!r} must not be set")
        if not _VALUE.fullmatch(value):
            raise Permanent(f"header {name!r} must be one line of Latin-1")
        checked[low] = value
    return checked


def _resolve_redirect(where: Destination, location: str) -> Destination:
    """Return the destination of a redirect, with the same checks as for the first URL."""
    try:
        after = parse_destination(where.url.join(location))
    except httpx2.InvalidURL:
        raise Permanent(f"{where.loggable} redirected to an address that cannot be read") from None
    if where.url.scheme == "https" and after.url.scheme != "https":
        raise ForbiddenDestination(f"{where.loggable} redirected to http, which is not encrypted")
    return after


def _join_headers(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("ascii").lower(), raw_value.decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


async def _read_body(
    response: httpcore2.Response, headers: Mapping[str, str], *, limit: int, where: Destination
) -> bytes:
    """Return the decoded body; raise Permanent as soon as it has more than ``limit`` bytes, compressed or not."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", "gzip", "x-gzip", ""}:
        raise Permanent(f"{where.loggable} answered in encoding {encoding[:20]!r}, which was not asked for")
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16) if "gzip" in encoding else None
    body, received = bytearray(), 0
    async for data in response.aiter_stream():
        received += len(data)
        try:
            # One byte more than allowed is enough to detect a body that is too large.
            body += unpack.decompress(data, limit + 1 - len(body)) if unpack else data
        except zlib.error:
            raise Retryable(f"{where.loggable} sent a body that is not valid gzip") from None
        if len(body) > limit or received > limit + MAX_GZIP_OVERHEAD_BYTES:
            raise Permanent(f"{where.loggable} sent more than {limit:,} bytes")
    if unpack and received and not unpack.eof:
        raise Retryable(f"{where.loggable} ended its answer too early")
    return bytes(body)


async def _read_start(response: httpcore2.Response, *, limit: int) -> bytes:
    """Return the first ``limit`` bytes of the body as they came: fewer if it breaks off or comes slowly.

    Whoever cuts a body decides by the status, which is known already.
    """
    body = bytearray()
    with suppress(TimeoutError, httpcore2.NetworkError, httpcore2.ProtocolError):
        async with asyncio.timeout(CUT_BODY_SECONDS):
            async for data in response.aiter_stream():
                body += data
                if len(body) >= limit:
                    break
    return bytes(body[:limit])
