"""What goes wrong on request: answers that refuse, answers that are lost, a gateway that is away."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress

import httpx2

from gristmill_client.testing.answers import Handling
from gristmill_client.testing.problems import BY_STATUS, Problem


class Faults:
    """The faults that wait for the next requests, one each."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[httpx2.Request, Handling], Handling]] = deque()

    def refuse(self, status: int, count: int, retry_after: float | None) -> None:
        headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}

        def fail(_: httpx2.Request, __: Handling) -> Handling:
            raise Problem(BY_STATUS.get(status, "internal"), headers=headers)
            yield  # a handling is a generator

        self._waiting.extend([fail] * count)

    def lose(self, count: int) -> None:
        def fail(request: httpx2.Request, handling: Handling) -> Handling:
            with suppress(Problem):
                yield from handling
            raise httpx2.ReadError("the answer was lost", request=request)

        self._waiting.extend([fail] * count)

    def be_away(self, count: int) -> None:
        def fail(request: httpx2.Request, _: Handling) -> Handling:
            raise httpx2.ConnectError("the gateway is away", request=request)
            yield

        self._waiting.extend([fail] * count)

    def around(self, request: httpx2.Request, handling: Handling) -> Handling:
        """Return how a request is handled: as always, or with the next fault."""
        return self._waiting.popleft()(request, handling) if self._waiting else handling
