"""The client for asyncio. Its operations are the plans of this package, run one step at a time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx2

from gristmill_client.http import batches, operations, streams, uploads, waiting
from gristmill_client.http.attempts import Core
from gristmill_client.http.sending import RETRY_SECONDS, build, options_of
from gristmill_client.http.steps import Give, Items, Pause, Plan, Read, Send, Step

P = ParamSpec("P")
T = TypeVar("T")


class _Line:
    """Takes the steps of one plan. At most one streamed response is open."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http
        self._response: httpx2.Response | None = None
        self._pieces: AsyncIterator[bytes] | None = None

    async def take(self, step: Step) -> Any:
        if isinstance(step, Read):
            return b"" if self._pieces is None else await anext(self._pieces, b"")
        await self.close()
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        return await self._send(step)

    async def _send(self, step: Send) -> httpx2.Response:
        response = await self._http.send(build(self._http, step.request), stream=True)
        if step.is_streamed:
            self._response, self._pieces = response, response.aiter_bytes()
        else:
            try:
                await response.aread()
            finally:
                await response.aclose()
        return response

    async def close(self) -> None:
        response, self._response, self._pieces = self._response, None, None
        if response is not None:
            await response.aclose()


class _Run:
    """One run of a plan."""

    def __init__(self, http: httpx2.AsyncClient, plan: Any) -> None:
        self._line = _Line(http)
        self._plan = plan
        self._answer: Any = None
        self._error: httpx2.RequestError | None = None

    async def advance(self) -> Give[Any]:
        """Take steps until the plan gives an item; raise StopAsyncIteration with its value at its end."""
        while True:
            answer, error, self._answer, self._error = self._answer, self._error, None, None
            try:
                step = self._plan.send(answer) if error is None else self._plan.throw(error)
            except StopIteration as done:
                raise StopAsyncIteration(done.value) from None
            if isinstance(step, Give):
                return step
            try:
                self._answer = await self._line.take(step)
            except httpx2.RequestError as failed:  # the plan decides
                self._error = failed

    async def close(self) -> None:
        self._plan.close()
        await self._line.close()


async def _run(http: httpx2.AsyncClient, plan: Plan[T]) -> T:
    run = _Run(http, plan)
    try:
        await run.advance()
    except StopAsyncIteration as done:
        found: T = done.args[0]
        return found
    finally:
        await run.close()
    raise AssertionError("a plan that returns gives no items")


async def _iterate(http: httpx2.AsyncClient, plan: Items[T]) -> AsyncIterator[T]:
    run = _Run(http, plan)
    try:
        while True:
            try:
                given = await run.advance()
            except StopAsyncIteration:
                return
            yield given.item
    finally:
        await run.close()


def _returning(plan: Callable[Concatenate[Core, P], Plan[T]]) -> "Callable[Concatenate[AsyncClient, P], Awaitable[T]]":
    @wraps(plan)
    async def call(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await _run(self._http, plan(self._core, *args, **kwargs))

    return call


def _giving(
    plan: Callable[Concatenate[Core, P], Items[T]],
) -> "Callable[Concatenate[AsyncClient, P], AsyncIterator[T]]":
    @wraps(plan)
    def call(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        return _iterate(self._http, plan(self._core, *args, **kwargs))

    return call


class AsyncClient:
    """:class:`Client` for asyncio: the same operations; those that iterate are for ``async for``.

    Close an iteration that you leave early with ``contextlib.aclosing``. A cancelled call closes its connection.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        retry_seconds: float = RETRY_SECONDS,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._core = Core(retry_seconds=retry_seconds)
        self._http = httpx2.AsyncClient(**options_of(base_url, api_key), transport=transport)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._http.base_url)!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    enqueue = _returning(operations.enqueue)
    enqueue_many = _returning(batches.enqueue_many)
    enqueue_each = _returning(batches.enqueue_each)
    show = _returning(operations.show)
    wait = _returning(waiting.wait)
    result = _returning(operations.result)
    cancel = _returning(operations.cancel)
    retry = _returning(operations.retry)
    decide = _returning(operations.decide)
    list_jobs = _giving(operations.list_jobs)
    count_jobs = _returning(operations.count_jobs)
    transitions = _giving(operations.transitions)
    follow = _giving(streams.follow)
    follow_many = _giving(streams.follow_many)
    ingest = _returning(uploads.ingest)
    request = _returning(operations.request)
    iterate_pages = _giving(operations.iterate_pages)
