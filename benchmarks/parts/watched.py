"""The cost of job events: the drain without events, with events, and with a Flower that reads them."""

import json
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

from benchmarks.figures import OURS, Figure, figure
from benchmarks.gristmill import Drained, drain, gristmill
from benchmarks.parts import Bench
from benchmarks.system import System, processes, wait_for


def run(bench: Bench) -> Iterator[Figure]:
    """By default events are on and nobody reads them; that is our contender."""
    system, jobs = bench.system, bench.sizes.drain_jobs

    def measure(*, events: bool) -> Drained:
        with gristmill(system, events=events) as running:
            return drain(running, jobs)

    samples = bench.interleaved(
        {
            OURS: lambda: measure(events=True),
            "events off": lambda: measure(events=False),
            "Flower attached": lambda: _with_flower(system, jobs),
        }
    )
    yield figure(
        "watched",
        "drain with job events",
        "jobs/s",
        {name: [one.rate for one in drained] for name, drained in samples.items()},
    )
    yield figure(
        "watched_cpu",
        "… processor time per job in the workers",
        "ms",
        {name: [one.cpu_per_job()["workers"] for one in drained] for name, drained in samples.items()},
    )


def _with_flower(system: System, jobs: int) -> Drained:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.role", "flower", json.dumps({"port": port})]
    with gristmill(system) as running, processes([command], system.environment, log=system.folder / "flower.log"):
        wait_for(lambda: _answers(port), seconds=60)
        return drain(running, jobs)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthcheck", timeout=5):
            return True
    except (urllib.error.URLError, TimeoutError):
        return False
