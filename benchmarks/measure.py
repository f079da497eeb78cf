"""The measurements: each returns figures of one run of one system; comparing is the caller's."""

import random
import statistics
import time
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

import tests.proving.stages  # noqa: F401 - registers the proving stages
from benchmarks import naive
from benchmarks.system import System, wait_for
from workers.runtime.enqueue import enqueue, enqueue_many

PATIENCE = 240.0


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from the caller's commit to the handler's first line."""

    p50: float
    p99: float


def rates_of_enqueue(system: System, jobs: int) -> tuple[float, float]:
    """Return jobs per second enqueued in bulk, and one by one with a commit each."""
    with Session(system.engine) as session:
        start = time.perf_counter()
        enqueue_many(session, "proving.plain", [{}] * jobs)
        session.commit()
        bulk = jobs / (time.perf_counter() - start)
        singles = min(jobs, 500)
        start = time.perf_counter()
        for _ in range(singles):
            enqueue(session, "proving.plain", {})
            session.commit()
        return bulk, singles / (time.perf_counter() - start)


def workers_are_up(system: System, count: int) -> None:
    """Wait until so many Gristmill workers show signs of life and a dispatcher leads."""
    sql = """SELECT (SELECT count(*) FROM runtime.workers WHERE heartbeat_at > now() - interval '30 s') >= %s
                AND EXISTS (SELECT FROM runtime.dispatcher WHERE seen_at > now() - interval '3 s')"""
    wait_for(lambda: system.postgres.execute(sql, (count,)).fetchone() == (True,), seconds=30)


def _pause(system: System, *, paused: bool) -> None:
    system.postgres.execute(
        "UPDATE runtime.stages SET paused_by = 'bench', paused_at = %s", ("now" if paused else None,)
    )
    if paused:
        time.sleep(0.7)  # longer than the dispatcher's survey: nothing of the backlog may start early


def drain(system: System, jobs: int, *, seconds: float = 0.0) -> float:
    """Return jobs per second from an open gate to the last settled job, the backlog being there before."""
    _pause(system, paused=True)
    with Session(system.engine) as session, session.begin():
        enqueue_many(session, "proving.plain", [{"seconds": seconds}] * jobs)
    system.postgres.execute("ANALYZE proving.plain_jobs")
    start = time.time()
    _pause(system, paused=False)
    left = "SELECT NOT EXISTS (SELECT FROM proving.plain_jobs WHERE completed_at IS NULL)"
    wait_for(lambda: system.postgres.execute(left).fetchone() == (True,), seconds=PATIENCE)
    last = system.postgres.execute(
        "SELECT extract(epoch FROM max(created_at))::float8 FROM runtime.transitions"
    ).fetchone()
    assert last is not None
    return jobs / (float(last[0]) - start)


def naive_drain(system: System, jobs: int, *, seconds: float = 0.0) -> float:
    """Return the naive pattern's jobs per second; publishing goes on while workers already work."""
    with Session(system.engine) as session:
        ids = naive.enqueue(session, jobs, seconds=seconds)
        session.commit()
    start = time.time()
    naive.publish(ids)
    done = "SELECT count(*) = 0 FROM naive_jobs WHERE status <> 'completed'"
    wait_for(lambda: system.postgres.execute(done).fetchone() == (True,), seconds=PATIENCE)
    last = system.postgres.execute("SELECT extract(epoch FROM max(created_at))::float8 FROM naive_audit").fetchone()
    assert last is not None
    return jobs / (float(last[0]) - start)


def _arrivals(rate: float, seconds: float) -> list[float]:
    """Return arrival times of a Poisson process: steady spacing would hide queueing."""
    at, times = 0.0, []
    while at < seconds:
        at += random.expovariate(rate)
        times.append(at)
    return times


def latency(system: System, *, rate: float, seconds: float) -> Latency:
    """Enqueue at ``rate`` jobs/s, a commit each, and return commit-to-handler times."""
    committed: dict[str, float] = {}
    start = time.time()
    with Session(system.engine) as session:
        for at in _arrivals(rate, seconds):
            time.sleep(max(0.0, start + at - time.time()))
            job = enqueue(session, "proving.plain", {"act": "stamp"})
            session.commit()
            committed[str(job.id)] = time.time()
    return _latency(
        system,
        committed,
        "SELECT id::text, (result->>'handler_started')::float8 FROM proving.plain_jobs "
        "WHERE id::text = ANY (%s) AND completed_at IS NOT NULL",
    )


def naive_latency(system: System, *, rate: float, seconds: float) -> Latency:
    """Do the same with the naive pattern: commit, then publish."""
    committed: dict[str, float] = {}
    start = time.time()
    with (
        Session(system.engine) as session,
        naive.app.connection_for_write() as connection,
        naive.app.amqp.Producer(connection) as producer,
    ):
        for at in _arrivals(rate, seconds):
            time.sleep(max(0.0, start + at - time.time()))
            (job_id,) = naive.enqueue(session, 1)
            session.commit()
            committed[job_id] = time.time()
            naive.app.send_task("naive.work", args=[job_id], producer=producer)
    return _latency(
        system,
        committed,
        "SELECT id::text, handler_started FROM naive_jobs WHERE id::text = ANY (%s) AND status = 'completed'",
    )


def _latency(system: System, committed: dict[str, float], sql: str) -> Latency:
    def started() -> list[tuple[str, float]]:
        return list(system.postgres.execute(sql, (list(committed),)).fetchall())

    wait_for(lambda: len(started()) == len(committed), seconds=30)
    waits = sorted((at - committed[job_id]) * 1_000 for job_id, at in started())
    return Latency(p50=statistics.median(waits), p99=waits[min(len(waits) - 1, int(len(waits) * 0.99))])


def clean(system: System) -> None:
    """Empty every table that a measurement fills."""
    system.postgres.execute("TRUNCATE proving.plain_jobs, naive_jobs, naive_audit")
    system.postgres.execute("TRUNCATE runtime.transitions")
    system.postgres.execute(text("CHECKPOINT").text)
