"""What an operation asks of the network, one step at a time.

An operation is written once, as a generator that yields steps and gets their answers (a plan). It does no input or
output, so :mod:`.blocking` and :mod:`.awaiting` run the same plans, and tests run them without a network.
"""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

import httpx2

T = TypeVar("T")

# How long one attempt waits for bytes.
ATTEMPT_SECONDS = 30.0
CONNECT_SECONDS = 10.0


class Body(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body that is read in pieces, also by an asynchronous client: of a file, which must not be slow."""

    def __iter__(self) -> Iterator[bytes]:
        raise NotImplementedError

    async def __aiter__(self) -> Any:
        for piece in self:
            yield piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request. ``is_repeatable`` tells whether it may be sent again although it may have had its effect.

    ``is_once``: it cannot be sent again at all, because its body can be read only once.
    The body is ``content``, or the fields of a form with ``file`` (its name and what to read), or ``body`` with
    ``length``. ``on_sent`` is called with the number of bytes that were sent.
    """

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    form: Mapping[str, str] | None = None
    file: tuple[str, Any] | None = None
    body: Body | None = None
    on_sent: Any = None
    read_seconds: float = ATTEMPT_SECONDS
    is_repeatable: bool = True
    is_once: bool = False


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request. The answer is a response; one that is streamed is not read. Raises httpx2.RequestError."""

    request: Request
    is_streamed: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """Read the next piece of the streamed response: bytes, empty at its end. Raises httpx2.RequestError.

    The next Send or Pause closes the response, and so does the end of the plan.
    """


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Give(Generic[T]):
    """Give the caller one item of an iteration."""

    item: T


Step: TypeAlias = Send | Read | Pause
# What returns one value, and what gives items until it ends.
Plan: TypeAlias = Generator[Step, Any, T]
Items: TypeAlias = Generator[Step | Give[T], Any, None]


def send(request: Request) -> Plan[httpx2.Response]:
    """Send a request and read the whole response."""
    response: httpx2.Response = yield Send(request)
    return response


def open_stream(request: Request) -> Plan[httpx2.Response]:
    """Send a request; the body of the response is read by :func:`read`."""
    response: httpx2.Response = yield Send(request, is_streamed=True)
    return response


def read() -> Plan[bytes]:
    """Return the next piece of the streamed response; empty at its end."""
    piece: bytes = yield Read()
    return piece
