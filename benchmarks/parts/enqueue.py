"""Enqueue jobs one by one, in bulk and in SQL, compared with COPY into the same table with the same triggers."""

import time
from collections.abc import Callable, Iterator
from uuid import uuid4

from sqlalchemy.orm import Session

import tests.support.proving.stages  # noqa: F401 - the stages that the Python door knows
from benchmarks.figures import OURS, Figure, figure
from benchmarks.gristmill import PLAIN, clean
from benchmarks.parts import Bench
from benchmarks.system import System
from workers.runtime.enqueue import enqueue, enqueue_many

STAGE = "proving.plain"


def run(bench: Bench) -> Iterator[Figure]:
    """Compare every door with COPY, which only writes the rows."""
    system, jobs = bench.system, bench.sizes.enqueue_jobs
    samples = bench.interleaved(
        {
            OURS: lambda: _rate(system, jobs, _bulk),
            "COPY": lambda: _rate(system, jobs, _copy),
            "INSERT … SELECT": lambda: _rate(system, jobs, _insert_select),
            "with keys": lambda: _rate(system, jobs, _bulk_with_keys),
            "SQL function": lambda: _rate(system, jobs, _function),
        }
    )
    yield figure("enqueue_bulk", "enqueue in bulk (enqueue_many)", "jobs/s", samples)
    singles = bench.sizes.enqueue_singles
    samples = bench.interleaved(
        {
            OURS: lambda: _rate(system, singles, _one_by_one),
            "SQL INSERT": lambda: _rate(system, singles, _insert_one_by_one),
        }
    )
    yield figure("enqueue_single", "enqueue one by one, a commit each", "jobs/s", samples)


def _rate(system: System, jobs: int, enqueue_them: Callable[[System, int], float]) -> float:
    """Return jobs per second. The door measures its own time, without its preparation."""
    try:
        return jobs / enqueue_them(system, jobs)
    finally:
        clean(system)
        system.postgres.execute("DELETE FROM scoring.profiles")


def _bulk(system: System, jobs: int) -> float:
    return _many(system, [{} for _ in range(jobs)])


def _bulk_with_keys(system: System, jobs: int) -> float:
    return _many(system, [{"idempotency_key": uuid4().hex} for _ in range(jobs)])


def _many(system: System, payloads: list[dict[str, str]]) -> float:
    with Session(system.engine) as session:
        session.connection()
        start = time.perf_counter()
        enqueue_many(session, STAGE, payloads)
        session.commit()
        return time.perf_counter() - start


def _copy(system: System, jobs: int) -> float:
    rows = b"complete\t0\t\n" * jobs
    start = time.perf_counter()
    with (
        system.postgres.cursor() as cursor,
        cursor.copy(f"COPY {PLAIN} (act, seconds, key) FROM STDIN".encode()) as copy,
    ):
        copy.write(rows)
    return time.perf_counter() - start


def _insert_select(system: System, jobs: int) -> float:
    start = time.perf_counter()
    system.postgres.execute(f"INSERT INTO {PLAIN} (act) SELECT 'complete' FROM generate_series(1, %s)".encode(), [jobs])
    return time.perf_counter() - start


def _function(system: System, jobs: int) -> float:
    """Use the SQL door of a domain: one function call per job, in one transaction."""
    who = system.value("INSERT INTO scoring.profiles (name) VALUES ('bench') RETURNING id")
    start = time.perf_counter()
    system.value("SELECT count(scoring.enqueue_score(%s, 'Judge.')) FROM generate_series(1, %s)", [who, jobs])
    return time.perf_counter() - start


def _one_by_one(system: System, jobs: int) -> float:
    with Session(system.engine) as session:
        session.connection()
        start = time.perf_counter()
        for _ in range(jobs):
            enqueue(session, STAGE, {})
            session.commit()
        return time.perf_counter() - start


def _insert_one_by_one(system: System, jobs: int) -> float:
    statement = f"INSERT INTO {PLAIN} (act) VALUES ('complete') RETURNING id".encode()
    start = time.perf_counter()
    for _ in range(jobs):
        system.postgres.execute(statement)
    return time.perf_counter() - start
