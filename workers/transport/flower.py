"""The Flower role: real Flower on our broker, showing jobs. Its options are one global; they are set here."""

import ipaddress
import os
import signal
from typing import Any
from urllib.parse import urlsplit

import structlog
from flower.app import Flower
from flower.options import options
from flower.urls import settings as tornado_settings
from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest
from tornado.web import ErrorHandler

from workers.runtime.handler.registry import Registry
from workers.runtime.refusals import Failed
from workers.transport.app import create_app

log = structlog.get_logger(__name__)

# About 20 MB in Flower's memory; older ones are found in Postgres.
MOST_TASKS = 20_000
COLUMNS = "name,uuid,state,received,started,runtime,retries,result,exception,worker"


class FlowerError(Failed):
    """Flower cannot be served as asked; the message is one line."""


class LocalFlower(Flower):
    """A Flower without passwords, for people on this machine: pages of other sites in their browsers are refused.

    Flower itself would let any site read its API and revoke jobs through a visitor's browser.
    """

    def find_handler(self, request: HTTPServerRequest, **options: Any) -> HTTPMessageDelegate:
        if is_foreign(request.headers.get("Host", ""), request.headers.get("Origin")):
            log.warning("foreign_request_refused", rule="without basic_auth Flower answers requests to localhost only")
            refusal: HTTPMessageDelegate = self.get_handler_delegate(request, ErrorHandler, {"status_code": 403})
            return refusal
        handler: HTTPMessageDelegate = super().find_handler(request, **options)
        return handler


def is_foreign(host: str, origin: str | None) -> bool:
    """Tell whether a request to ``host`` came by a strange name, or from a page of another origin."""
    if not _is_loopback(urlsplit(f"//{host}").hostname or ""):
        return True
    return origin is not None and urlsplit(origin).netloc != host


def run_flower(registry: Registry, *, redis_url: str, address: str, port: int, basic_auth: str | None) -> int:
    """Serve Flower until SIGTERM or SIGINT; return its exit code.

    Raises FlowerError for an address beyond loopback without ``basic_auth`` (``user:password``), and for a port that
    is taken.
    """
    if basic_auth is None and not _is_loopback(address):
        raise FlowerError(f"Flower must be given basic_auth beyond loopback, got the address {address!r} and none")
    _configure(address=address, port=port, basic_auth=basic_auth)
    served = (Flower if basic_auth else LocalFlower)(
        capp=create_app(redis_url, registry), options=options, **tornado_settings
    )
    try:
        served.start_http_server()
    except OSError as error:
        raise FlowerError(f"Flower cannot listen on {address}:{port}: {error.strerror}") from None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: served.io_loop.add_callback_from_signal(served.stop))
    log.info("flower_ready", address=address, port=port)
    served.start()
    return 0


def _configure(*, address: str, port: int, basic_auth: str | None) -> None:
    """Set Flower's options by its API: on a command line the password would show in every process list."""
    options.address = address
    options.port = port
    options.basic_auth = [basic_auth] if basic_auth else []
    options.tasks_columns = COLUMNS
    options.max_tasks = MOST_TASKS
    options.persistent = False
    options.natural_time = True
    # Without it Flower's own Revoke button is refused. Loopback only: beyond it there is basic_auth, which serves both.
    os.environ["FLOWER_UNAUTHENTICATED_API"] = "" if basic_auth else "true"


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
