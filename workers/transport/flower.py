"""The Flower role: Flower on our broker, showing jobs. Flower's options are a global object, set here."""

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

# About 20 MB in Flower's memory. Older jobs are in Postgres.
MAX_TASKS = 20_000
TASK_COLUMNS = "name,uuid,state,received,started,runtime,retries,result,exception,worker"


class FlowerError(Failed):
    """Flower cannot run with these options; the message is one line."""


class LocalFlower(Flower):
    """A Flower without passwords for this machine only. It refuses requests from web pages of other sites.

    Plain Flower lets any site read its API and revoke jobs through a visitor's browser.
    """

    def find_handler(self, request: HTTPServerRequest, **options: Any) -> HTTPMessageDelegate:
        if is_foreign(request.headers.get("Host", ""), request.headers.get("Origin")):
            log.warning("foreign_request_refused", rule="without basic_auth Flower answers requests to localhost only")
            refusal: HTTPMessageDelegate = self.get_handler_delegate(request, ErrorHandler, {"status_code": 403})
            return refusal
        handler: HTTPMessageDelegate = super().find_handler(request, **options)
        return handler


def is_foreign(host: str, origin: str | None) -> bool:
    """Return whether ``host`` is not this machine, or the request comes from a page of another origin."""
    if not _is_loopback(urlsplit(f"//{host}").hostname or ""):
        return True
    return origin is not None and urlsplit(origin).netloc != host


def run_flower(registry: Registry, *, redis_url: str, address: str, port: int, basic_auth: str | None) -> int:
    """Serve Flower until SIGTERM or SIGINT; return its exit code.

    Raises FlowerError if the address is not loopback and there is no ``basic_auth`` (``user:password``), or if the
    port is taken.
    """
    if basic_auth is None and not _is_loopback(address):
        raise FlowerError(f"Flower must have basic_auth to listen beyond loopback, got address {address!r} without it")
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
    """Set Flower's options in Python, because every user of the machine can read a command line."""
    options.address = address
    options.port = port
    options.basic_auth = [basic_auth] if basic_auth else []
    options.tasks_columns = TASK_COLUMNS
    options.max_tasks = MAX_TASKS
    options.persistent = False
    options.natural_time = True
    # Without this variable or basic_auth, Flower refuses its own Revoke button. Beyond loopback there is basic_auth.
    os.environ["FLOWER_UNAUTHENTICATED_API"] = "" if basic_auth else "true"


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
