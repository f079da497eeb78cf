"""Read the bodies of requests: bounded in size, strict JSON, the media type that the route reads.

Every router is made with ``APIRouter(route_class=Route)``. A route that reads more than :data:`MAX_JSON_BYTES` says so
with ``@max_body(...)``.
"""

from collections.abc import Callable, Coroutine, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, TypeVar, get_args, get_origin

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.params import Form
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from starlette.types import Message, Receive

from gateway.callers.dependencies import requirements_of
from gateway.limits import HeldBytes
from gateway.problems import HttpProblem
from gateway.resources import services_of
from workers.runtime.bounds import text_problem
from workers.runtime.json_text import JsonTextError, read_json
from workers.runtime.refusals import Problem, quoted

F = TypeVar("F", bound=Callable[..., Any])

# A payload may have 1 MiB; the rest of the request needs little.
MAX_JSON_BYTES = 1024 * 1024 + 64 * 1024
# A payload may be nested 64 levels deep.
MAX_DEPTH = 72


def max_body(size: int) -> Callable[[F], F]:
    """Return a decorator of a route's function: its body may have ``size`` bytes."""

    def mark(function: F) -> F:
        function.__dict__["max_body"] = size
        return function

    return mark


class Route(APIRoute):
    """A route that reads its body by the rules of this module."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        size: int = getattr(self.endpoint, "max_body", MAX_JSON_BYTES)
        reads_json = self.body_field is not None and not isinstance(self.body_field.field_info, Form)
        required = tuple(requirements_of(self.dependant))
        lists = frozenset(_lists_in(self.dependant))

        async def read_and_handle(request: Request) -> Response:
            for one in required:  # FastAPI would first read the body of somebody who has no key
                await one.find_caller(request)
            _check_parameters(request, lists)
            if not reads_json:
                return await handle(_Request(request.scope, bounded(request, size)))
            _check_media_type(request)
            caller = request.scope["state"].get("caller")
            with services_of(request).bodies.hold(caller.counted_as if caller else "") as held:
                return await handle(_Request(request.scope, bounded(request, size, held)))

        return read_and_handle


class _Request(Request):
    """A request with strict JSON."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = read_body(await self.body())
        return self._json


def read_body(body: bytes) -> Any:
    """Return the JSON of ``body``; refuse what Python, Postgres and other readers do not read in the same way."""
    try:
        value = read_json(body)
    except JsonTextError as error:
        raise HttpProblem("malformed", f"the body {error}", errors=[Problem("body", str(error))]) from None
    check_inside(body, value)
    return value


def check_inside(body: bytes, value: Any) -> None:
    """Refuse a text inside ``value`` that Postgres cannot store, and a value nested too deeply."""
    # Almost no body has a text with an escaped character, or this many brackets.
    if b"\\u" in body or body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_inside(value)


def bounded(request: Request, size: int, held: HeldBytes | None = None) -> Receive:
    """Return what receives the body of ``request``: at most ``size`` bytes. The server cuts slow bodies.

    ``held`` counts the bytes of bodies that are in memory.
    """
    length = request.headers.get("content-length")
    if length is not None and length.isdecimal() and int(length) > size:
        raise _too_large(size)
    receive, received = request.receive, 0

    async def receive_bounded() -> Message:
        nonlocal received
        message = await receive()
        if body := message.get("body"):
            received += len(body)
            if received > size:
                raise _too_large(size)
            if held is not None:
                held.add(len(body))
        return message

    return receive_bounded


def _too_large(size: int) -> HttpProblem:
    problem = Problem("body", f"must have at most {size:,} bytes", "more")
    return HttpProblem("too-large", str(problem), errors=[problem])


def _lists_in(dependant: Dependant) -> Iterator[str]:
    """Yield the parameters of the query that may be sent several times."""
    for parameter in dependant.query_params:
        kind = parameter.field_info.annotation
        fields: Mapping[str, FieldInfo] = {parameter.name: parameter.field_info}
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            fields = kind.model_fields
        for name, field in fields.items():
            if list in {get_origin(one) for one in (field.annotation, *get_args(field.annotation))}:
                yield field.alias or name


def _check_parameters(request: Request, lists: AbstractSet[str]) -> None:
    """Refuse a parameter of the query that was sent twice, if only one of them would count."""
    if b"&" not in request.scope["query_string"]:
        return
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name in seen and name not in lists:
            problem = Problem(name, "must be sent once")
            raise HttpProblem("invalid", str(problem), errors=[problem])
        seen.add(name)


def _check_media_type(request: Request) -> None:
    """Raise 415 if the request has a body that is not JSON."""
    headers = request.headers
    if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return
    given = headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if (coding := headers.get("content-encoding", "identity").lower()) != "identity":
        problem = Problem("Content-Encoding", "must not be set: bodies are not decompressed", quoted(coding))
        raise HttpProblem("unsupported-media-type", str(problem), errors=[problem])
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        problem = Problem("Content-Type", "must be application/json", quoted(given) if given else "nothing")
        raise HttpProblem(
            "unsupported-media-type", str(problem), errors=[problem], headers={"Accept": "application/json"}
        )


def _check_inside(value: Any) -> None:
    """Refuse a text that Postgres cannot store, and a value that is nested too deeply. Uses no recursion."""
    waiting: list[tuple[Any, int]] = [(value, 1)]
    while waiting:
        found, depth = waiting.pop()
        if isinstance(found, str):
            if rule := text_problem(found):
                raise _refuse_inside(rule)
        elif isinstance(found, dict | list):
            if depth > MAX_DEPTH:
                raise _refuse_inside(f"must be nested at most {MAX_DEPTH} levels deep")
            waiting += [(inner, depth + 1) for inner in (found.values() if isinstance(found, dict) else found)]
            if isinstance(found, dict):
                waiting += [(name, depth) for name in found]


def _refuse_inside(rule: str) -> HttpProblem:
    problem = Problem("body", rule)
    return HttpProblem("malformed", str(problem), errors=[problem])
