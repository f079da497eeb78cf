"""The client for programs without asyncio. Its operations are the plans of this package, run one step at a time."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
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

    def __init__(self, http: httpx2.Client) -> None:
        self._http = http
        self._response: httpx2.Response | None = None
        self._pieces: Iterator[bytes] = iter(())

    def take(self, step: Step) -> Any:
        if isinstance(step, Read):
            return next(self._pieces, b"")
        self.close()
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        return self._send(step)

    def _send(self, step: Send) -> httpx2.Response:
        response = self._http.send(build(self._http, step.request), stream=True)
        if step.is_streamed:
            self._response, self._pieces = response, response.iter_bytes()
        else:
            with closing(response):
                response.read()
        return response

    def close(self) -> None:
        response, self._response, self._pieces = self._response, None, iter(())
        if response is not None:
            response.close()


def _run(http: httpx2.Client, plan: Plan[T]) -> T:
    steps = _steps(http, plan)
    try:
        next(steps)
    except StopIteration as done:
        found: T = done.value
        return found
    raise AssertionError("a plan that returns gives no items")


def _iterate(http: httpx2.Client, plan: Items[T]) -> Iterator[T]:
    return _steps(http, plan)


def _steps(http: httpx2.Client, plan: "Generator[Step | Give[Any], Any, T]") -> "Generator[Any, None, T]":
    """Take the steps of a plan, and yield what it gives."""
    line = _Line(http)
    answer: Any = None
    error: httpx2.RequestError | None = None
    with closing(line), closing(plan):
        while True:
            try:
                step = plan.send(answer) if error is None else plan.throw(error)
            except StopIteration as done:
                found: T = done.value
                return found
            answer, error = None, None
            if isinstance(step, Give):
                yield step.item
                continue
            try:
                answer = line.take(step)
            except httpx2.RequestError as failed:  # the plan decides
                error = failed


def _returning(plan: Callable[Concatenate[Core, P], Plan[T]]) -> "Callable[Concatenate[Client, P], T]":
    @wraps(plan)
    def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return _run(self._http, plan(self._core, *args, **kwargs))

    return call


def _giving(plan: Callable[Concatenate[Core, P], Items[T]]) -> "Callable[Concatenate[Client, P], Iterator[T]]":
    @wraps(plan)
    def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return _iterate(self._http, plan(self._core, *args, **kwargs))

    return call


class Client:
    """A client of one gateway with one pool of connections: make it once, use it from every thread, close it.

    After 429, 503 and lost connections a request is sent again, until ``retry_seconds`` have passed; then the last
    error is raised. ``transport`` is one of httpx2, for tests and special networks. The key appears in no error.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        retry_seconds: float = RETRY_SECONDS,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._core = Core(retry_seconds=retry_seconds)
        self._http = httpx2.Client(**options_of(base_url, api_key), transport=transport)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._http.base_url)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

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
