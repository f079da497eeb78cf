"""The resident memory of a worker process: idle, and with a thousand running jobs."""

import sys
import time
from collections.abc import Iterator

import psutil

from benchmarks.figures import OURS, Figure, figure
from benchmarks.gristmill import PLAIN, fill, gristmill
from benchmarks.parts import Bench
from benchmarks.system import System, processes, wait_for

MEGABYTE = 1_000_000
LONG_SECONDS = 3_600.0
# By then a process has done its work after the first heartbeat.
IDLE_AFTER_SECONDS = 2.0


def run(bench: Bench) -> Iterator[Figure]:
    """Read the resident memory of one worker before its slots are full and while they are."""
    running_jobs = bench.sizes.running
    samples = bench.interleaved({OURS: lambda: _idle_and_running(bench, running_jobs)})[OURS]
    yield figure("memory_idle", "resident memory of a worker, idle", "MB", {OURS: [idle for idle, _ in samples]})
    yield figure(
        "memory_running",
        f"resident memory of a worker, {running_jobs:,} jobs running",
        "MB",
        {OURS: [full for _, full in samples]},
    )
    yield figure(
        "memory_deployed",
        "resident memory of `gristmill worker` with every stage, idle",
        "MB",
        bench.interleaved({OURS: lambda: _deployed(bench.system)}),
    )


def _deployed(system: System) -> float:
    """Return the memory of a worker that was started like operators start it."""
    system.postgres.execute("DELETE FROM runtime.workers")
    command = [sys.executable, "-c", "from cli.main import main; main()", "worker"]
    with processes([command], system.environment, log=system.folder / "roles.log") as (pid,):
        wait_for(lambda: system.value("SELECT count(*) FROM runtime.workers"), seconds=60, alive=[pid])
        time.sleep(IDLE_AFTER_SECONDS)
        return _resident(pid)


def _idle_and_running(bench: Bench, jobs: int) -> tuple[float, float]:
    system = bench.system
    with gristmill(system, workers=1, slots=max(jobs, 1), warm_up=0) as running:
        idle = _resident(running.workers[0])
        fill(system, jobs, seconds=LONG_SECONDS)
        count = f"SELECT count(*) FROM {PLAIN} WHERE status = 'processing'"
        wait_for(lambda: system.value(count) == jobs, seconds=60)
        return idle, _resident(running.workers[0])


def _resident(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / MEGABYTE
