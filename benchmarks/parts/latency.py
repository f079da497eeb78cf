"""The time from the caller's commit to the handler's first line, at 20 and 200 jobs/s with random arrivals."""

from collections.abc import Iterator

from benchmarks import bare_celery, naive
from benchmarks.figures import OURS, Figure, figure
from benchmarks.gristmill import gristmill, latency
from benchmarks.parts import Bench

RATES = (20, 200)


def run(bench: Bench) -> Iterator[Figure]:
    """Compare one worker and a dispatcher with Celery alone and with the naive pattern."""
    for rate in RATES:
        yield from _at(bench, rate)


def _at(bench: Bench, rate: int) -> Iterator[Figure]:
    system, seconds = bench.system, bench.sizes.latency_seconds

    def ours() -> dict[str, float]:
        with gristmill(system, workers=1) as running:
            return latency(running, rate=rate, seconds=seconds)

    def theirs() -> dict[str, float]:
        with naive.naive(system, concurrency=4) as running:
            return naive.latency(running, rate=rate, seconds=seconds)

    def bare() -> dict[str, float]:
        return bare_celery.latency(system, rate=rate, seconds=seconds)

    contenders = {OURS: ours, "bare Celery": bare}
    if rate <= RATES[0]:  # above its drain rate the naive pattern only builds a queue
        contenders["naive Celery"] = theirs
    samples = bench.interleaved(contenders)
    for percentile in ("p50", "p95", "p99"):
        yield figure(
            f"latency_{rate}_{percentile}",
            f"commit to handler at {rate} jobs/s, {percentile}",
            "ms",
            {name: [one[percentile] for one in measured] for name, measured in samples.items()},
        )
