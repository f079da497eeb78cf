"""Check URLs that users name, and connect only to allowed addresses.

:class:`GuardedNetwork` checks at the moment of connecting: it resolves a name once, checks every address of the name,
and connects to one of these addresses. So the address cannot change between the check and the call.
"""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpcore2
import httpx2

from workers.outbound.addresses import Network, reason_against
from workers.runtime.handler.errors import Permanent, Retryable
from workers.runtime.handler.outside import ForbiddenDestination

# Returns the addresses of a name. Lookups can be slow, so they have their own threads.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

PORTS = {"http": 80, "https": 443}
MAX_LOOKUPS = 16
MAX_ADDRESSES_TRIED = 3
MAX_URL_LENGTH = 2_048  # as long as a callback_url may be
# Ports of services that could misread an HTTP request: the bad ports of the Fetch standard, and databases.
FORBIDDEN_PORTS = frozenset(
    {1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110}
    | {111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531}
    | {532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060}
    | {5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080}
    | {1433, 1521, 2375, 2376, 2379, 3306, 5432, 5672, 6379, 9042, 9200, 9300, 10250, 11211, 27017}
)
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9_.-])?|[0-9A-Fa-f:.]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Destination:
    """A URL with an allowed scheme, host and port. Its addresses are not checked yet."""

    url: httpx2.URL
    host: str
    port: int

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port."""
        return self.url.scheme, self.host, self.port

    @property
    def loggable(self) -> str:
        """The URL for logs and errors, without path and query, because these may hold secrets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.url.scheme}://{host}:{self.port}"


def parse_destination(url: str | httpx2.URL) -> Destination:
    """Return the destination of ``url``; raise ForbiddenDestination if it must not be called.

    The host is not looked up, so doors can use this to refuse a URL at once.
    """
    if len(str(url)) > MAX_URL_LENGTH:
        raise ForbiddenDestination(f"URL must have {MAX_URL_LENGTH:,} characters at most, got {len(str(url)):,}")
    try:
        parsed = httpx2.URL(url)
        host = parsed.raw_host.decode("ascii")
    except (httpx2.InvalidURL, UnicodeError, ValueError, TypeError):
        raise ForbiddenDestination("URL cannot be read") from None
    if parsed.scheme not in PORTS:
        raise ForbiddenDestination(f"URL must start with http:// or https://, got {parsed.scheme[:20]!r}")
    if parsed.userinfo:
        raise ForbiddenDestination("URL must not have a user or a password: send them as a header")
    if not _HOST.fullmatch(host) or "\\" in str(url):
        raise ForbiddenDestination(f"URL must name a host, got {host[:80]!r}")
    port = parsed.port or PORTS[parsed.scheme]
    if port in FORBIDDEN_PORTS or not 0 < port < 2**16:
        raise ForbiddenDestination(f"port {port} must not be called: it belongs to another protocol")
    return Destination(parsed, host, port)


async def look_up(host: str, port: int) -> Sequence[str]:
    """Return every address of ``host`` from the system's resolver."""
    found = await asyncio.get_running_loop().run_in_executor(
        _LOOKUPS, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    )
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


_LOOKUPS = ThreadPoolExecutor(MAX_LOOKUPS, thread_name_prefix="lookup")


async def allowed_addresses(host: str, port: int, *, allow: Sequence[Network], resolve: Resolve) -> Sequence[str]:
    """Resolve ``host`` once and return its addresses; raise ForbiddenDestination unless all of them may be called.

    A name with a public and a private address is an attack or a mistake. Raise Retryable if the name is not found,
    because a later lookup may succeed.
    """
    try:
        addresses = await resolve(host, port)
    except (OSError, UnicodeError) as error:
        raise Retryable(f"host {host[:80]!r} cannot be found ({type(error).__name__})") from None
    if not addresses:
        raise Retryable(f"host {host[:80]!r} has no address")
    for address in addresses:
        if reason := reason_against(address, allow):
            raise ForbiddenDestination(
                f"host {host[:80]!r} must not be called: its address is {reason}; "
                "GRISTMILL_OUTBOUND__ALLOW admits addresses inside the network"
            )
    return addresses


class GuardedNetwork(httpcore2.AsyncNetworkBackend):
    """Opens connections to allowed addresses only, for any spelling of the host."""

    def __init__(self, *, allow: Sequence[Network], resolve: Resolve = look_up) -> None:
        self._allow, self._resolve = allow, resolve
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address of the host that answers."""
        found = await allowed_addresses(host, port, allow=self._allow, resolve=self._resolve)
        failed: Exception | None = None
        for address in found[:MAX_ADDRESSES_TRIED]:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
        raise failed or httpcore2.ConnectError("no address")

    async def connect_unix_socket(
        self,
        path: str,  # noqa: ARG002 - the interface's signature
        timeout: float | None = None,  # noqa: ARG002
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore2.AsyncNetworkStream:
        """Refuse, because a socket of this machine is inside the network."""
        raise Permanent("sockets of this machine must not be called")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
