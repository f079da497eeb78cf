"""Serve the app with uvicorn: bounded connections, slow clients are cut, a stop finishes what runs.

uvicorn has no time limit for headers and for clients that read slowly, and no problem+json for what is not HTTP.
"""

import asyncio
import json
import resource
import signal
import socket
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import h11
import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from gateway.app import create_app
from gateway.catalogue import BY_STATUS, PROBLEMS, ProblemType
from gateway.problems import MEDIA_TYPE
from gateway.resources import Resources
from workers.runtime.garbage import reduce_garbage_collection
from workers.runtime.refusals import Failed

log = structlog.get_logger(__name__)

# From the first byte of a request, or from the connection, to the end of the headers.
HEADERS_SECONDS = 10.0
# A body may take this long, and a second more for each so many bytes that have arrived.
BODY_SECONDS, MIN_BYTES_PER_SECOND = 10.0, 10_000
# A client that reads nothing for so long while more is ready for it.
SLOW_READER_SECONDS = 30.0
KEEP_ALIVE_SECONDS = 65
MAX_HEADER_BYTES = 32 * 1024
# A body that is refused is read and ignored up to this size, so that a client which sends first and reads then gets
# the answer.
MAX_IGNORED_BYTES = 32 * 1024 * 1024
_PAUSE_SECONDS = 1.0
BACKLOG = 1_024
# Files of the process that are not connections of clients.
OTHER_FILES = 256


class GuardedProtocol(H11Protocol):
    """One connection, with the limits of this module."""

    max_connections = 10_000
    _timer: asyncio.TimerHandle | None = None  # of the headers or of the body
    _reader_timer: asyncio.TimerHandle | None = None
    _times_body = False
    _body_began = 0.0
    _body_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._refuse(PROBLEMS["temporary-reduced-capacity"], "too many connections are open")
        else:
            self._timer = self.loop.call_later(HEADERS_SECONDS, self._cut_slow_headers)

    def data_received(self, data: bytes) -> None:
        before = self.conn.their_state
        if before is h11.IDLE and self._has_large_headers(data):
            self._refuse(PROBLEMS["headers-too-large"], f"headers must have at most {MAX_HEADER_BYTES:,} bytes")
            return
        if before is h11.SEND_BODY:
            self._body_bytes += len(data)
            if self._body_bytes > MAX_IGNORED_BYTES and self.cycle.response_complete:
                self.transport.abort()
                return
        super().data_received(data)
        self._arm()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._arm()  # the next request of a client that does not wait for answers may have begun

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._cancel_reader_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader_timer = self.loop.call_later(SLOW_READER_SECONDS, self._cut_slow_reader)

    def resume_writing(self) -> None:
        self._cancel_reader_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP. Called while the error is handled."""
        error = sys.exception()
        hint = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        self._refuse(BY_STATUS.get(hint) or PROBLEMS["malformed"], f"{msg} {error or ''}".strip())

    def _has_large_headers(self, data: bytes) -> bool:
        """Tell whether the headers that ``data`` continues are too large. h11 checks only what is still incomplete."""
        held = len(self.conn.trailing_data[0])
        if held + len(data) <= MAX_HEADER_BYTES:
            return False
        end = data.find(b"\r\n\r\n")
        return held + (len(data) if end < 0 else end) > MAX_HEADER_BYTES

    def _arm(self) -> None:
        """Start the clock of the headers or of the body that have begun to arrive; stop it once they are complete."""
        state = self.conn.their_state
        if state is h11.SEND_BODY:  # most bodies arrive together with their headers and need no clock
            if not self._times_body:
                self._disarm()
                self._times_body, self._body_began, self._body_bytes = True, self.loop.time(), 0
                self._timer = self.loop.call_later(BODY_SECONDS, self._check_body)
        elif state is not h11.IDLE or self._times_body:
            self._disarm()
        elif self._timer is None and self.conn.trailing_data[0] and not self.transport.is_closing():
            self._timer = self.loop.call_later(HEADERS_SECONDS, self._cut_slow_headers)

    def _disarm(self) -> None:
        self._times_body = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cancel_reader_timer(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def _cut_slow_headers(self) -> None:
        self._timer = None
        if self.conn.trailing_data[0]:
            self._refuse(PROBLEMS["too-slow"], f"the headers must arrive within {HEADERS_SECONDS:g} s")
        else:
            self.transport.close()  # it sent nothing

    def _check_body(self) -> None:
        if self.flow.read_paused:  # we are slower than the client
            self._body_began += _PAUSE_SECONDS
        deadline = self._body_began + BODY_SECONDS + self._body_bytes / MIN_BYTES_PER_SECOND
        left = deadline - self.loop.time()
        if left > 0 or self.flow.read_paused:
            self._timer = self.loop.call_later(max(left, _PAUSE_SECONDS), self._check_body)
            return
        self._timer = None
        self._refuse(
            PROBLEMS["too-slow"],
            f"a body must arrive within {BODY_SECONDS:g} s, or with {MIN_BYTES_PER_SECOND:,} bytes per second",
        )

    def _cut_slow_reader(self) -> None:
        log.info("slow_reader_cut", client=self.client[0] if self.client else None)
        self.transport.abort()

    def _refuse(self, kind: ProblemType, detail: str) -> None:
        """Answer without the app, and close the connection."""
        self._disarm()
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE} and not self.transport.is_closing():
            document = {"type": kind.uri, "title": kind.title, "status": kind.status, "detail": detail}
            body = json.dumps(document | {"instance": "", "request_id": "", "errors": []}).encode()
            headers = [
                ("content-type", MEDIA_TYPE),
                ("content-length", str(len(body))),
                ("connection", "close"),
                *([("retry-after", "2")] if kind.status == 503 else []),  # noqa: PLR2004 - the status of the header
            ]
            for event in (h11.Response(status_code=kind.status, headers=headers), h11.Data(body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # the app must not answer too
            cycle.message_event.set()
        self.transport.close()


class _Server(uvicorn.Server):
    """A server that calls ``on_stop`` when it begins to stop, and leaves the exit code to its caller."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_stop()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stop at SIGINT or SIGTERM; a second one ends the grace."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, self._note_signal)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def _note_signal(self) -> None:
        if self.should_exit:
            self.force_exit = True
            for connection in list(self.server_state.connections):
                connection.transport.abort()
        self.should_exit = True


def run_gateway(
    resources: Resources, *, address: str, port: int, grace_seconds: float, trusted_proxies: tuple[str, ...] = ()
) -> int:
    """Serve until SIGTERM or SIGINT, then finish running requests within the grace; return the exit code.

    Raise Failed if the port is taken.
    """
    app = create_app(resources)
    return serve_app(
        app,
        address=address,
        port=port,
        grace_seconds=grace_seconds,
        max_connections=resources.max_connections,
        trusted_proxies=trusted_proxies,
    )


def serve_app(
    app: FastAPI,
    *,
    address: str,
    port: int,
    grace_seconds: float,
    max_connections: int,
    trusted_proxies: tuple[str, ...] = (),
) -> int:
    """Serve ``app`` like :func:`run_gateway`."""
    listener = listen(address, port)

    options: dict[str, Any] = {
        "http": type("Protocol", (GuardedProtocol,), {"max_connections": _allow_files(max_connections)}),
        "loop": "asyncio",
        "ws": "none",
        "lifespan": "off",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "backlog": BACKLOG,
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": max(1, round(grace_seconds)),
        "h11_max_incomplete_event_size": MAX_HEADER_BYTES,
        "proxy_headers": bool(trusted_proxies),
        "forwarded_allow_ips": list(trusted_proxies),
    }

    async def serve() -> None:
        async with app.router.lifespan_context(app):
            server = _Server(uvicorn.Config(app, **options), app.state.services.stopping.set)
            reduce_garbage_collection()
            log.info("gateway_listens", address=address, port=listener.getsockname()[1])
            await server.serve(sockets=[listener])
            log.info("gateway_stops")

    with listener:
        asyncio.run(serve())
    return 0


def _allow_files(max_connections: int) -> int:
    """Raise this process's limit of open files for its connections; return how many connections it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    allowed = max_connections if soft == resource.RLIM_INFINITY else min(max_connections, soft - OTHER_FILES)
    if allowed < max_connections:
        log.warning("few_open_files", connections=allowed, rule="raise the hard limit of open files (ulimit -n)")
    return allowed


def listen(address: str, port: int) -> socket.socket:
    """Return a socket that listens on ``address`` and ``port``; 0: any free port. Raise Failed if it is taken."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listener = socket.create_server((address, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise Failed(f"the gateway cannot listen on {address}, port {port}: {error.strerror or error}") from None
    # Its connections inherit it; asyncio sets it only for sockets that were made for TCP by name. Without it, the body
    # of each answer waits 40 ms for the client to acknowledge the headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
