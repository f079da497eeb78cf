"""Send a request until it is answered: again after 429, 503 and lost connections, until a deadline.

Waits are random up to a bound that doubles (full jitter), and never shorter than ``Retry-After``. A request that may
have had its effect is sent again only if it is repeatable: it reads, or it has an idempotency key or a version.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx2

from gristmill_client.errors import Failed, GristmillError, Unavailable
from gristmill_client.http.problems import FIRST_ERROR, FIRST_SERVER_ERROR, error_of
from gristmill_client.http.steps import Pause, Plan, Request, open_stream, read, send

FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.25, 15.0
# A problem of a request is small; more of an answer is not read.
MAX_PROBLEM_BYTES = 1024 * 1024
# The request did not reach a server that could have done it.
_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
# These errors come again.
_FINAL = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, httpx2.TooManyRedirects, httpx2.DecodingError)
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
# The gateway refused these before it did anything.
_NOT_DONE = frozenset({"quota-exceeded", "too-many", "temporary-reduced-capacity", "too-slow"})


@dataclass(slots=True)
class Core:
    """What the operations of one client share. ``clock`` and ``draw`` (a float in [0, 1)) are replaced in tests."""

    retry_seconds: float
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[], float] = random.random
    # Something between here and the gateway keeps the events of streams back.
    is_buffered: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed. ``is_final``: another one would fail too. ``may_be_done``: it may have had its effect."""

    error: GristmillError
    is_final: bool
    may_be_done: bool


def answered(core: Core, request: Request, *, is_streamed: bool = False) -> Plan[httpx2.Response]:
    """Return the response of a request, with a status below 400; raise the error of any other answer.

    A streamed response is open, and the caller closes it.
    """
    ends = core.clock() + core.retry_seconds
    failed, may_be_done = 0, False
    while True:
        found = yield from _attempt(request, is_streamed)
        if isinstance(found, httpx2.Response):
            return found
        may_be_done |= found.may_be_done
        found.error.may_have_happened = may_be_done and request.method != "GET"
        if found.is_final or request.is_once or (found.may_be_done and not request.is_repeatable):
            raise found.error
        wait = delay_after(failed, retry_after=found.error.retry_after, draw=core.draw)
        if core.clock() + wait > ends:
            raise found.error
        failed += 1
        yield Pause(wait)


def delay_after(failed: int, *, retry_after: float | None, draw: Callable[[], float]) -> float:
    """Return how many seconds to wait after ``failed`` failures before this one; at least ``retry_after``."""
    bound = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(failed, 16))
    return (retry_after or 0.0) + bound * draw()


def _attempt(request: Request, is_streamed: bool) -> Plan[httpx2.Response | Failure]:  # noqa: FBT001 - a private flag
    try:
        response = yield from (open_stream(request) if is_streamed else send(request))
        if response.status_code < FIRST_ERROR:
            return response
        if is_streamed:
            response = yield from _read_problem(response)
    except httpx2.RequestError as error:
        return failure_of(error)
    return failure_of_answer(response)


def _read_problem(response: httpx2.Response) -> Plan[httpx2.Response]:
    """Return a streamed response that is an error as one that is read."""
    content = b""
    while len(content) < MAX_PROBLEM_BYTES and (piece := (yield from read())):
        content += piece
    headers = {name: value for name, value in response.headers.items() if name not in _OF_THE_TRANSFER}
    return httpx2.Response(response.status_code, headers=headers, content=content)


_OF_THE_TRANSFER = frozenset({"content-encoding", "content-length", "transfer-encoding"})


def failure_of(error: httpx2.RequestError) -> Failure:
    """Return what a broken connection means. The message names no header and no query."""
    reason = " ".join(str(error).split()) or type(error).__name__
    kind = "the gateway cannot be reached" if isinstance(error, _NEVER_SENT) else "the gateway did not answer"
    found = Unavailable(f"{kind}: {reason}", code="unreachable")
    found.__cause__ = error
    return Failure(found, is_final=isinstance(error, _FINAL), may_be_done=not isinstance(error, _NEVER_SENT))


def failure_of_answer(response: httpx2.Response) -> Failure:
    """Return what an answer of 400 or more means."""
    error = error_of(response)
    # What the gateway itself tried in vain would fail again; a 502 of a proxy is Unavailable.
    is_final = response.status_code not in _AGAIN or (isinstance(error, Failed) and error.code == "failed")
    may_be_done = response.status_code >= FIRST_SERVER_ERROR and error.code not in _NOT_DONE
    return Failure(error, is_final=is_final, may_be_done=may_be_done)
