"""Protocols of HTTP, mail and stored secrets for handlers. The worker gets their implementations at its start."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from workers.runtime.handler.errors import Permanent

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request to an address that a user may have named.

    ``seconds`` limits the whole call with redirects and body, ``max_bytes`` the decoded body; None means the process's
    own limit. A larger body is an error or, with ``cuts_body``, cut: then it is returned as it came, not decoded.
    Only GET and HEAD follow redirects, at most ``redirects``. Headers that may hold a secret are not sent to another
    origin.
    """

    url: str
    method: Method = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float | None = None
    max_bytes: int | None = None
    cuts_body: bool = False
    redirects: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """The answer, whatever its status. ``url`` is the one that answered after redirects, ``address`` its IP address.

    Names of ``headers`` are in lower case; the values of a repeated header are joined by a comma.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str
    address: str


class ForbiddenDestination(Permanent):
    """The address, its port or its scheme must not be called: no attempt is made."""


class Http(Protocol):
    """Calls to addresses that users name; never to an address inside the network."""

    async def send(self, request: Request) -> HttpAnswer:
        """Send once and return the answer.

        Raise ForbiddenDestination or Permanent if no attempt can succeed (an address inside the network, a body that is
        too large), Retryable if another attempt may succeed (a name that is not found, a timeout).
        """

    async def aclose(self) -> None:
        """Release its connections; nothing is sent afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One mail to one person. Letters with the same ``key`` have the same Message-ID, so a duplicate is recognised."""

    to: str
    subject: str
    text: str
    key: str
    html: str | None = None
    reply_to: str | None = None


class Mail(Protocol):
    """Mail to people."""

    async def send(self, letter: Letter) -> None:
        """Pass the letter to the mail server.

        Raise Permanent if the letter is refused for ever, Retryable if it is refused for now, and Unavailable if the
        mail server cannot be reached.
        """

    async def aclose(self) -> None:
        """Release its connections; nothing is sent afterwards."""


class Keyring(Protocol):
    """Encrypts secrets that are stored, and decrypts them. The database never has the key."""

    def encrypt(self, secret: str) -> str:
        """Return ``secret`` encrypted with the first key; raise a Refusal if there is no key."""

    def decrypt(self, token: str) -> str:
        """Return the secret; raise a Refusal if no key decrypts it."""

    def rotate(self, token: str) -> str:
        """Return the secret encrypted with the first key; raise a Refusal if no key decrypts it."""
