"""A gateway in a process of its own, on a free port, with the callers of ``tests.support.gateway``."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from gateway import server
from gateway.app import create_app
from gateway.server import serve_app
from local.embedded.ports import choose_port
from local.processes import spawn
from tests.support.gateway import OPERATOR, make_resources, router
from tests.support.paths import ROOT

START_SECONDS = 60.0


@dataclass(slots=True)
class GatewayProcess:
    """A running gateway."""

    port: int
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str | None = OPERATOR, **options: Any) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=30, **options)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def lines(self) -> list[dict[str, Any]]:
        """Return its log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def await_line(self, event: str) -> None:
        """Return when its log has ``event``."""
        deadline = time.monotonic() + START_SECONDS
        while not any(line["event"] == event for line in self.lines()):
            if time.monotonic() > deadline:
                raise AssertionError(f"{event} is never logged: {self.log.read_text()}")
            time.sleep(0.02)

    def await_lines(self, request_id: str, count: int) -> list[dict[str, Any]]:
        """Return the lines of a request once there are ``count``. Its last line follows its answer."""
        deadline = time.monotonic() + START_SECONDS
        while len(found := [line for line in self.lines() if line.get("request_id") == request_id]) < count:
            if time.monotonic() > deadline:
                raise AssertionError(f"{request_id} has {len(found)} lines: {self.log.read_text()}")
            time.sleep(0.02)
        return found

    def await_running(self, count: int) -> None:
        """Return when ``count`` requests run, besides the one that asks."""
        self._await_metric(f"gristmill_http_requests_running {float(count + 1)}")

    def await_queued(self, count: int) -> None:
        """Return when ``count`` requests wait for a place."""
        self._await_metric(f"gristmill_http_requests_queued {float(count)}")

    def _await_metric(self, line: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        with self.client() as client:
            while time.monotonic() < deadline:
                if line in client.get("/metrics").text.splitlines():
                    return
                time.sleep(0.02)
        raise AssertionError(f"the metrics never have {line!r}")

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)


@contextmanager
def started_gateway(
    folder: Path, database_url: str, redis_url: str, *, wait: bool = True, **options: Any
) -> Iterator[GatewayProcess]:
    """Yield a gateway that answers. It ends with the block.

    ``options`` are those of Resources, and the limits of the server's module in small letters.
    """
    port = choose_port()
    log = folder / f"gateway-{port}.log"
    given = {"database_url": database_url, "redis_url": redis_url, "port": port} | options
    with log.open("wb") as output:
        process = spawn(
            [sys.executable, "-m", "tests.support.gateway_process", json.dumps(given)],
            env=os.environ,
            output=output,
            end_signal=signal.SIGKILL,
            cwd=ROOT,
        )
    gateway = GatewayProcess(port, process, log)
    try:
        if wait:
            _await_answer(gateway)
        yield gateway
    finally:
        process.kill()
        process.wait()


def _await_answer(gateway: GatewayProcess) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with gateway.client() as client:
                client.get("/healthz")
        except httpx2.TransportError:
            if gateway.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the gateway does not start: {gateway.log.read_text()}") from None
            time.sleep(0.05)
        else:
            return


def main(options: Mapping[str, Any]) -> int:
    """Run the gateway until SIGTERM."""
    from config.logging import configure
    from workers.runtime.handler.registry import discover

    configure("json", "INFO")
    discover()
    given = dict(options)
    port, grace = given.pop("port"), given.pop("grace_seconds", 5)
    proxies = tuple(given.pop("trusted_proxies", ()))
    for name in ("HEADERS_SECONDS", "BODY_SECONDS", "SLOW_READER_SECONDS"):
        setattr(server, name, given.pop(name.lower(), getattr(server, name)))
    resources = make_resources(**given)
    app = create_app(resources)
    app.include_router(router)
    return serve_app(
        app,
        address="127.0.0.1",
        port=port,
        grace_seconds=grace,
        max_connections=resources.max_connections,
        trusted_proxies=proxies,
    )


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
