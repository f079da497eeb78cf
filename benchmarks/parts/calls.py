"""Calls of 200 ms: how many run at once, the share of the ideal rate, and the rate with real HTTP."""

import json
import os
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks import naive
from benchmarks.figures import OURS, Figure, figure
from benchmarks.gristmill import PLAIN, drain, gristmill
from benchmarks.parts import Bench
from benchmarks.peers.measure import Peer
from benchmarks.peers.measure import drain as drain_peer
from benchmarks.stages import CALL_URL
from benchmarks.system import served

CALL_SECONDS = 0.2
SLOTS = 1_000
LONG_SECONDS = 2.0
NAIVE_CONCURRENCY = 16
# The largest number of started and not completed jobs at one moment.
MAX_RUNNING = f"""
    SELECT coalesce(max(n), 0)::int FROM (
      SELECT sum(step) OVER (ORDER BY at, step) AS n FROM (
        SELECT started_at AS at, 1 AS step FROM {PLAIN}
        UNION ALL SELECT completed_at, -1 FROM {PLAIN}) AS steps) AS running"""


@dataclass(frozen=True, slots=True)
class Called:
    """Jobs per second, and the largest number that ran at one moment."""

    rate: float
    at_once: float


def run(bench: Bench) -> Iterator[Figure]:
    """Measure sleeping handlers first, then real calls to a provider in its own process."""
    yield from _sleeping(bench)
    yield from _http(bench)


def _sleeping(bench: Bench) -> Iterator[Figure]:
    system, calls = bench.system, bench.sizes.calls

    def ours(workers: int, jobs: int, seconds: float) -> Callable[[], Called]:
        def measure() -> Called:
            with gristmill(system, workers=workers, slots=SLOTS) as running:
                rate = drain(running, jobs, seconds=seconds).rate
                return Called(rate, float(system.value(MAX_RUNNING)))

        return measure

    def theirs() -> Called:
        with naive.naive(system, concurrency=NAIVE_CONCURRENCY) as running:
            return Called(naive.drain(running, bench.sizes.naive_calls, seconds=CALL_SECONDS).rate, NAIVE_CONCURRENCY)

    one, two, long = "one process", "two processes", "two processes, 2 s calls"
    samples = bench.interleaved(
        {
            one: ours(1, calls, CALL_SECONDS),
            two: ours(2, calls, CALL_SECONDS),
            long: ours(2, max(2 * SLOTS, calls // 4), LONG_SECONDS),
            "naive Celery": theirs,
        }
    )
    rates = {name: [each.rate for each in called] for name, called in samples.items()}
    yield figure(
        "calls",
        f"200 ms calls, sleeping handlers, {SLOTS:,} slots a process",
        "calls/s",
        {OURS: rates[one], two: rates.get(two, []), "naive Celery": rates.get("naive Celery", [])},
    )
    ideal = SLOTS / CALL_SECONDS
    for name, title, who, processes in (
        ("calls_ideal", "… one process, of the ideal of its slots", one, 1),
        ("calls_ideal_two", "… two processes, of the ideal of their slots", two, 2),
    ):
        yield figure(name, title, "%", {OURS: [rate / (processes * ideal) * 100 for rate in rates.get(who, [])]})
    # Claimed and not yet settled: the jobs that a worker holds, with the calls of their handlers.
    for name, title, who in (
        ("calls_concurrent", "… most at once on two processes", two),
        ("calls_concurrent_long", "… most at once on two processes, calls of 2 s", long),
    ):
        yield figure(name, title, "jobs", {OURS: [each.at_once for each in samples.get(who, [])]})


def _http(bench: Bench) -> Iterator[Figure]:
    system, calls = bench.system, max(20, bench.sizes.calls // 4)
    with served("benchmarks.http_server", "--delay", str(CALL_SECONDS)) as url:

        def ours(act: str) -> Callable[[], Called]:
            def measure() -> Called:
                with gristmill(system, slots=SLOTS, base_url=url) as running:
                    statistics(url)
                    return Called(drain(running, calls, act=act).rate, statistics(url)["most_at_once"])

            return measure

        def of(peer: Peer) -> Callable[[], Called]:
            def measure() -> Called:
                statistics(url)
                jobs = max(20, int(calls * peer.share))
                return Called(drain_peer(system, peer, jobs, call_url=url).rate, statistics(url)["most_at_once"])

            return measure

        with _call_url(url):
            samples = bench.interleaved(
                {OURS: ours("call"), "ctx.llm": ours("ask"), **{peer.name: of(peer) for peer in bench.peers}}
            )
    yield figure(
        "calls_http",
        "200 ms HTTP calls, two processes",
        "calls/s",
        {name: [each.rate for each in called] for name, called in samples.items()},
    )
    yield figure(
        "calls_http_concurrent",
        "… most at once, as the provider saw it",
        "calls",
        {name: [each.at_once for each in called] for name, called in samples.items()},
    )


@contextmanager
def _call_url(url: str) -> Iterator[None]:
    """Set the URL to call for the roles that the block starts."""
    os.environ[CALL_URL] = url
    try:
        yield
    finally:
        del os.environ[CALL_URL]


def statistics(url: str) -> dict[str, Any]:
    """Return the provider's counters since the last call."""
    with urllib.request.urlopen(url.replace("/v1", "/stats"), timeout=10) as answer:  # noqa: S310 - our own server
        counted: dict[str, Any] = json.load(answer)
        return counted
