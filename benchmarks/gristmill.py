"""Gristmill as a contender: its role processes, a drain, and the latency from a commit to the handler."""

import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from redis import Redis
from sqlalchemy.orm import Session

import tests.support.proving.stages  # noqa: F401 - the stages that the Python door knows
from benchmarks.system import Cpu, Meter, System, processes, wait_for
from workers.runtime.enqueue import enqueue

PATIENCE = 600.0
WARM_UP = 64
PLAIN = "proving.plain_jobs"
OPEN = f"""
    SELECT EXISTS (SELECT FROM {PLAIN} WHERE status = 'pending' AND dispatched_at IS NULL AND due_at IS NULL)
        OR EXISTS (SELECT FROM {PLAIN} WHERE dispatched_at IS NOT NULL AND completed_at IS NULL)
"""


@dataclass(frozen=True, slots=True)
class Running:
    """The processes of one Gristmill, in groups. The processor time of each group is measured."""

    system: System
    groups: dict[str, list[int]]

    @property
    def workers(self) -> list[int]:
        return self.groups["workers"]

    @property
    def pids(self) -> list[int]:
        """The pids of all its processes."""
        return [pid for group in self.groups.values() for pid in group]


@dataclass(frozen=True, slots=True)
class Drained:
    """The rate and the processor time of a drained backlog."""

    jobs: int
    seconds: float
    cpu: Cpu

    @property
    def rate(self) -> float:
        return self.jobs / self.seconds

    def cpu_per_job(self) -> Cpu:
        """Return milliseconds per job, of each group and of all groups together."""
        each = {name: seconds * 1_000 / self.jobs for name, seconds in self.cpu.items()}
        return {**each, "all": sum(each.values())}


@contextmanager
def gristmill(
    system: System, *, workers: int = 2, slots: int = 1_000, warm_up: int = WARM_UP, **options: Any
) -> Iterator[Running]:
    """Run worker processes and one dispatcher, warmed up. Their rows are deleted at the end.

    ``options`` are those of the roles (``benchmarks/role.py``).
    """
    role = [sys.executable, "-m", "benchmarks.role"]
    events = {"events": options.pop("events", True)}
    worker = [*role, "worker", json.dumps({"slots": slots, **events, **options})]
    environment = system.environment
    with Redis.from_url(system.redis_url) as redis:
        redis.flushall()  # remove the messages of other contenders
    system.postgres.execute("DELETE FROM runtime.workers")
    commands = [worker] * workers + [[*role, "dispatcher", json.dumps(events)]]
    with processes(commands, environment, log=system.folder / "roles.log") as pids:
        running = Running(system, {"workers": pids[:workers], "dispatcher": pids[workers:]})
        _await_roles(running, workers)
        if warm_up:
            drain(running, warm_up)
        yield running
    clean(system)


def _await_roles(running: Running, workers: int) -> None:
    up = """SELECT (SELECT count(*) FROM runtime.workers WHERE heartbeat_at > now() - interval '30 s') >= %s
               AND EXISTS (SELECT FROM runtime.dispatcher WHERE seen_at > now() - interval '3 s')"""
    wait_for(lambda: running.system.value(up, [workers]), seconds=120, alive=running.pids)


def fill(system: System, jobs: int, *, act: str = "complete", seconds: float = 0.0) -> None:
    """Insert ``jobs`` plain jobs in one statement and one commit."""
    system.postgres.execute(
        f"INSERT INTO {PLAIN} (act, seconds) SELECT %s, %s FROM generate_series(1, %s)".encode(), [act, seconds, jobs]
    )


def drain(running: Running, jobs: int, *, act: str = "complete", seconds: float = 0.0) -> Drained:
    """Commit ``jobs`` at once; measure from that commit to the last settle."""
    system = running.system
    fill(system, jobs, act=act, seconds=seconds)
    start, meter = time.time(), Meter(system, running.groups)
    wait_until_drained(running)
    cpu = meter.used()
    last = system.value("SELECT extract(epoch FROM max(created_at))::float8 FROM runtime.transitions")
    failed = system.value(f"SELECT count(*) FROM {PLAIN} WHERE status <> 'completed'")
    if failed:
        raise RuntimeError(f"{failed} of {jobs} jobs did not complete: {_first_error(system)}")
    return Drained(jobs, float(last) - start, cpu)


def _first_error(system: System) -> str:
    return str(system.value(f"SELECT max(error_message) FROM {PLAIN} WHERE status <> 'completed'"))


def wait_until_drained(running: Running) -> None:
    """Return once no plain job is ready or running. The query must be very cheap."""
    wait_for(lambda: not running.system.value(OPEN), seconds=PATIENCE, every=0.1, alive=running.pids)


def arrivals(rate: float, seconds: float) -> list[float]:
    """Return arrival times of a Poisson process, because a steady interval would hide queueing."""
    at, times = 0.0, []
    while at < seconds:
        at += random.expovariate(rate)
        times.append(at)
    return times


def percentiles(waits: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and p99 of ``waits`` (seconds) in milliseconds."""
    ordered = sorted(waits)
    return {f"p{share}": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] * 1_000 for share in (50, 95, 99)}


def latency(running: Running, *, rate: float, seconds: float) -> dict[str, float]:
    """Enqueue at ``rate`` jobs/s, with a commit each; return commit-to-handler percentiles."""
    system = running.system
    committed: dict[str, float] = {}
    start = time.time()
    with Session(system.engine) as session:
        for at in arrivals(rate, seconds):
            time.sleep(max(0.0, start + at - time.time()))
            job = enqueue(session, "proving.plain", {"act": "stamp"})
            session.commit()
            committed[str(job.id)] = time.time()
    wait_until_drained(running)
    started = system.postgres.execute(
        f"SELECT id::text, (result->>'handler_started')::float8 FROM {PLAIN} WHERE act = 'stamp'".encode()
    ).fetchall()
    assert len(started) == len(committed)
    return percentiles([at - committed[job_id] for job_id, at in started])


def clean(system: System) -> None:
    """Empty every table that a measurement fills, and write dirty pages before the next one starts."""
    system.postgres.execute("TRUNCATE proving.plain_jobs, proving.keyed_jobs, runtime.transitions")
    system.postgres.execute("UPDATE runtime.stages SET paused_by = NULL, paused_at = NULL")
    system.postgres.execute("CHECKPOINT")
