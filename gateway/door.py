"""The outermost layer of the app: request ids, one log line per request, security headers, and an answer to any error.

A pure ASGI layer, because it runs for every request.
"""

import logging
import os
import time
from typing import Any

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.metrics import Metrics
from gateway.problems import HttpProblem, problem_of, render
from workers.runtime.tracing import is_traceparent, is_tracing, span

# `config.logging` gives this logger a fast handler of its own in the JSON style.
requests = logging.getLogger("gateway.requests")
requests_on_terminal = structlog.get_logger("gateway.requests")

REQUEST_ID = b"x-request-id"
_MAX_REQUEST_ID = 128
_REQUEST_ID_CHARACTERS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:/+=-")
# An answer is data, never a page: a browser must neither run, frame nor cache it. Pages set their own policy.
_CSP = b"content-security-policy"
_SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_DATA_POLICY = (_CSP, b"default-src 'none'; frame-ancestors 'none'")
_CACHE, _NO_STORE = b"cache-control", (b"cache-control", b"no-store")
# A probe comes every few seconds: only a red one is logged.
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_CLIENT_GONE, _FIRST_ERROR = 499, 400


class Door:
    """Wraps the app.

    ``scope["state"]`` holds ``request_id``, and what the app adds: ``caller``, ``headers`` (more headers of the
    answer), ``place`` (left at the end), ``release`` (called at the end).
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        state: dict[str, Any] = scope.setdefault("state", {})
        request_id = state["request_id"] = _request_id(scope)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        method = scope["method"]
        answer = _Answer(send, state, request_id)
        if method == "HEAD":
            scope = {**scope, "method": "GET"}  # a copy: the server leaves out the body by its own scope
            receive, answer.is_head = answer.receive_until_answered(receive), True
        self._metrics.running.inc()
        try:
            _check(scope)
            if is_tracing() and scope["path"] not in _PROBES:
                await self._run_traced(method, scope, receive, answer)
            else:
                await self._app(scope, receive, answer.send)
        except ClientDisconnect:
            answer.status = answer.status or _CLIENT_GONE
        except Exception as error:
            problem = problem_of(error)
            if answer.status:
                raise  # the answer has begun: the server closes the connection, so that the client sees that it broke
            await render(problem, scope)(scope, receive, answer.send)
        finally:
            if place := state.get("place"):
                place.leave()
            if release := state.get("release"):
                release()
            self._metrics.running.dec()
            self._note(method, scope, answer.status or _CLIENT_GONE, time.perf_counter() - began)

    async def _run_traced(self, method: str, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        """Run the app in a span below that of the client; without one, OTEL_TRACES_SAMPLER decides."""
        parent = _traceparent(scope)
        with span(method, parent=parent, is_root=parent is None) as made:
            try:
                await self._app(scope, receive, answer.send)
            finally:
                if made is not None:
                    route = template_of(scope)
                    made.update_name(f"{method} {route}")
                    made.set_attributes({"http.request.method": method, "http.route": route})
                    made.set_attribute("http.response.status_code", answer.status or _CLIENT_GONE)

    def _note(self, method: str, scope: Scope, status: int, seconds: float) -> None:
        route = template_of(scope)
        method = method if method in _METHODS else "other"  # a client may make up any number of them
        self._metrics.note(method, route, status, seconds)
        caller = scope["state"].get("caller")
        if route in _PROBES and status < _FIRST_ERROR:
            return
        fields = {
            "method": method,
            "route": route,
            "status": status,
            "milliseconds": round(seconds * 1_000, 1),
            "caller": caller.name if caller else None,
            "request_id": scope["state"]["request_id"],
        }
        if requests.handlers:
            requests.info(fields)
        else:
            requests_on_terminal.info("request", **fields)


class _Answer:
    """Sends the answer of one request, and adds the headers of every answer."""

    def __init__(self, send: Send, state: dict[str, Any], request_id: str) -> None:
        self._send = send
        self._state = state
        self._request_id = request_id.encode()
        self.status = 0
        self.is_head = self.is_complete = False

    async def send(self, message: Message) -> None:
        if self.is_complete:
            return  # the body of a GET, asked for by HEAD
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message["headers"] = [*message.get("headers", ())]
            names = [name for name, _ in headers]
            headers += _SECURITY
            headers.append((REQUEST_ID, self._request_id))
            headers += self._state.get("headers", ())
            if _CSP not in names:
                headers.append(_DATA_POLICY)
            if _CACHE not in names:
                headers.append(_NO_STORE)
        await self._send(message)
        if self.is_head and message["type"] == "http.response.start":
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            self.is_complete = True

    def receive_until_answered(self, receive: Receive) -> Receive:
        """Return a ``receive`` that reports the end of the connection once HEAD is answered, which ends a stream."""

        async def receive_or_end() -> Message:
            return {"type": "http.disconnect"} if self.is_complete else await receive()

        return receive_or_end


def _check(scope: Scope) -> None:
    """Refuse a request that Postgres cannot store, or that two servers may read differently."""
    if b"%00" in scope["query_string"] or "\x00" in scope["path"]:
        raise HttpProblem("malformed", "a path or a query must not contain a NUL character")
    if scope["path"].endswith("\n"):  # the router would ignore it
        raise HttpProblem("not-found", "no path ends with a line break")
    names = {name for name, _ in scope["headers"]}
    if b"transfer-encoding" in names and b"content-length" in names:
        # RFC 9112, 6.3: what follows on the connection may be the request of somebody else.
        raise HttpProblem(
            "malformed", "Transfer-Encoding and Content-Length must not both be sent", headers={"Connection": "close"}
        )


def template_of(scope: Scope) -> str:
    """Return the route's template, such as ``/v1/jobs/{id}``; "unknown" if no route has the path."""
    context = scope.get("fastapi", {}).get("effective_route_context")
    path = getattr(context, "path", None) or getattr(scope.get("route"), "path", None)
    return path or "unknown"


def _traceparent(scope: Scope) -> str | None:
    """Return the client's trace context; None if it sends none, or a wrong one, which W3C wants to be ignored."""
    for name, value in scope["headers"]:
        if name == b"traceparent" and is_traceparent(text := value.decode("latin-1")):
            return str(text)
    return None


def _request_id(scope: Scope) -> str:
    """Return the client's request id, if it is a short word, else a new one."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID and 0 < len(value) <= _MAX_REQUEST_ID and _REQUEST_ID_CHARACTERS.issuperset(value):
            return str(value.decode())
    return os.urandom(16).hex()
