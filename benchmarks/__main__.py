"""``python -m benchmarks``: Gristmill beside the naive Celery pattern, interleaved in one run, medians and ratios."""

import argparse
import platform
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from benchmarks import naive
from benchmarks.measure import (
    Latency,
    clean,
    drain,
    latency,
    naive_drain,
    naive_latency,
    rates_of_enqueue,
    workers_are_up,
)
from benchmarks.system import System, processes, roles, system

WORKERS = 2
WARM_UP = 50
T = TypeVar("T")


def main() -> None:
    options = _arguments()
    console = Console()
    console.print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, "
        f"{options.repeat} interleaved rounds, PostgreSQL with fsync on, everything on this machine"
    )
    table = Table("figure", "gristmill", "naive Celery", "ratio", title="Gristmill beside the naive pattern")
    with system() as bench:
        bench.postgres.execute(naive.SCHEMA)
        naive.app.conf.update(broker_url=bench.redis_url)
        _enqueue(bench, table, options.jobs)
        _drain(bench, table, options)
        _latency(bench, table, options)
        _calls(bench, table, options)
    console.print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000, help="no-op jobs per drain")
    parser.add_argument("--naive-jobs", type=int, default=1_500, help="no-op jobs per drain of the naive pattern")
    parser.add_argument("--repeat", type=int, default=3, help="interleaved rounds")
    parser.add_argument("--seconds", type=float, default=10, help="length of a latency run at 20 jobs/s")
    parser.add_argument("--calls", type=int, default=10_000, help="200 ms calls per round")
    return parser.parse_args()


def _enqueue(bench: System, table: Table, jobs: int) -> None:
    bulk, single = rates_of_enqueue(bench, jobs)
    clean(bench)
    table.add_row("enqueue, bulk, jobs/s", f"{bulk:,.0f}", "", "")
    table.add_row("enqueue, a commit each, jobs/s", f"{single:,.0f}", "", "")


def _interleaved(
    bench: System,
    repeat: int,
    ours: Callable[[], T],
    theirs: Callable[[], T],
    *,
    workers: int,
    slots: int,
    concurrency: int,
) -> tuple[list[T], list[T]]:
    """Run A B A B, each system alone on the machine while it is measured."""
    mine: list[T] = []
    naives: list[T] = []
    for _ in range(repeat):
        with processes(roles(workers, slots=slots), bench.environment):
            workers_are_up(bench, workers)
            drain(bench, WARM_UP)
            mine.append(ours())
        bench.postgres.execute("DELETE FROM runtime.workers")
        clean(bench)
        with processes([naive.worker_command(concurrency)], bench.environment):
            naive_drain(bench, WARM_UP)
            clean(bench)
            naives.append(theirs())
        clean(bench)
    return mine, naives


def _drain(bench: System, table: Table, options: argparse.Namespace) -> None:
    ours, theirs = _interleaved(
        bench,
        options.repeat,
        lambda: drain(bench, options.jobs),
        lambda: naive_drain(bench, options.naive_jobs),
        workers=WORKERS,
        slots=1_000,
        concurrency=4,
    )
    a, b = statistics.median(ours), statistics.median(theirs)
    table.add_row("drain of no-op jobs, jobs/s", f"{a:,.0f}", f"{b:,.0f}", f"{a / b:.1f} ×")


def _latency(bench: System, table: Table, options: argparse.Namespace) -> None:
    ours, theirs = _interleaved(
        bench,
        options.repeat,
        lambda: latency(bench, rate=20, seconds=options.seconds),
        lambda: naive_latency(bench, rate=20, seconds=options.seconds),
        workers=1,
        slots=1_000,
        concurrency=4,
    )

    def median(of: list[Latency], name: str) -> float:
        return float(statistics.median(getattr(each, name) for each in of))

    for name in ("p50", "p99"):
        a, b = median(ours, name), median(theirs, name)
        table.add_row(f"commit to handler at 20 jobs/s, {name}, ms", f"{a:.1f}", f"{b:.1f}", f"{a / b:.2f} ×")


def _calls(bench: System, table: Table, options: argparse.Namespace) -> None:
    ours, theirs = _interleaved(
        bench,
        options.repeat,
        lambda: drain(bench, options.calls, seconds=0.2),
        lambda: naive_drain(bench, 400, seconds=0.2),
        workers=1,
        slots=1_000,
        concurrency=16,
    )
    a, b = statistics.median(ours), statistics.median(theirs)
    table.add_row("200 ms calls, one worker process, calls/s", f"{a:,.0f}", f"{b:,.0f}", f"{a / b:.1f} ×")
    table.add_row("… of the ideal of 1,000 slots", f"{a / 5_000:.0%}", "", "")


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    main()
