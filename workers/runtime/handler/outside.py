"""HTTP and mail as a handler sees them: protocols; the room that implements them is handed in at start."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from workers.runtime.handler.errors import Permanent

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request to an address that a user may have named.

    ``seconds`` bounds the whole call, redirects and body included, ``max_bytes`` the decoded body; None means the
    process's own bound. Only a GET or a HEAD follows redirects, ``redirects`` at most; the headers of ``headers`` that
    may carry a secret are not sent to another origin.
    """

    url: str
    method: Method = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float | None = None
    max_bytes: int | None = None
    redirects: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """What came back, whatever the status. ``url`` is who answered after redirects, ``address`` where that was.

    Names of ``headers`` are in lower case; of a header that came twice the values are joined by a comma.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str
    address: str


class ForbiddenDestination(Permanent):
    """The address, its port or its scheme may not be called: no attempt will be."""


class Http(Protocol):
    """Calls to addresses that users name; never one inside the network."""

    async def send(self, request: Request) -> HttpAnswer:
        """Send once and return the answer.

        Raise ForbiddenDestination or Permanent for what is wrong every time (an address inside the network, a body
        that is too large), Retryable for what another attempt may mend (a name that is not found, a timeout).
        """

    async def aclose(self) -> None:
        """Release its connections; nothing is sent afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One mail to one person. Letters of the same ``key`` have the same Message-ID: a second one is recognised."""

    to: str
    subject: str
    text: str
    key: str
    html: str | None = None
    reply_to: str | None = None


class Mail(Protocol):
    """Mail to people."""

    async def send(self, letter: Letter) -> None:
        """Hand the letter over.

        Raise Permanent for a letter that nobody will ever take, Retryable for one that was put off, and Unavailable
        while the mail server cannot be reached.
        """

    async def aclose(self) -> None:
        """Release its connections; nothing is sent afterwards."""
