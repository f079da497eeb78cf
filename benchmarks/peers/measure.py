"""Measure a peer: install it, enqueue, start its workers, and poll its tables until all jobs are done."""

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg
from redis import Redis

from benchmarks.gristmill import PATIENCE, Drained
from benchmarks.peers.installing import installed
from benchmarks.system import Meter, System, processes, wait_for

WORKERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One peer: its packages, and the query that shows whether jobs are left (None: count the runs instead).

    A slower peer gets only ``share`` of our number of jobs. If the peer needs a newer Python than ours, ``python`` is
    the oldest version on which it runs.
    """

    name: str
    requirements: tuple[str, ...]
    left: str | None
    share: float = 1.0
    python: tuple[int, int] = (3, 11)


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            name="procrastinate",
            requirements=("procrastinate==3.10.0", "psycopg[binary]==3.3.9"),
            left="SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))",
            share=0.2,
        ),
        Peer(
            name="pgqueuer",
            requirements=("pgqueuer[asyncpg]==1.6.0",),
            left="SELECT EXISTS (SELECT FROM pgqueuer)",
        ),
        Peer(name="taskiq", requirements=("taskiq==0.13.0", "taskiq-redis==1.2.4"), left=None),
        Peer(
            name="dbos",
            requirements=("dbos==3.4.0",),
            left="SELECT EXISTS (SELECT FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING'))",
            share=0.1,
        ),
        Peer(
            name="oban",
            requirements=("oban==0.7.0",),
            left="SELECT EXISTS (SELECT FROM oban_jobs WHERE state <> 'completed')",
            share=0.4,
            python=(3, 12),
        ),
        Peer(
            name="absurd",
            requirements=("absurd-sdk==0.5.1", "absurdctl==0.5.1", "psycopg[binary]==3.3.9"),
            left="SELECT EXISTS (SELECT FROM absurd.t_bench WHERE state <> 'completed')",
            share=0.2,
        ),
    )
}


def drain(system: System, peer: Peer, jobs: int, *, call_url: str | None = None) -> Drained:
    """Enqueue ``jobs``, start two workers, and measure from the first job's start to the last one's end.

    With ``call_url`` each job makes one HTTP call. As for Gristmill, the start of the workers is not counted.
    """
    python = installed(peer.name, peer.requirements, oldest=peer.python)
    counts = system.folder / f"{peer.name}-counts"
    shutil.rmtree(counts, ignore_errors=True)
    counts.mkdir()
    with Redis.from_url(system.redis_url) as redis:
        redis.flushall()
    url = _database(system, peer.name)
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": url,
        "REDIS_URL": system.redis_url,
        "BENCH_COUNTS": str(counts),
        **({"BENCH_CALL_URL": call_url} if call_url else {}),
    }
    driver = [str(python), "-m", f"benchmarks.peers.{peer.name}"]
    for role in (["setup"], ["enqueue", str(jobs)]):
        _run([*driver, *role], environment)
    with psycopg.connect(url, autocommit=True) as looking:
        log = system.folder / f"{peer.name}.log"
        with processes([[*driver, "worker"]] * WORKERS, environment, log=log) as pids:
            wait_for(lambda: _read(counts), seconds=60, every=0.01, alive=pids)
            meter = Meter(system, {"workers": pids})
            wait_for(lambda: _is_done(looking, peer, counts, jobs), seconds=PATIENCE, every=0.02, alive=pids)
            end, cpu = time.time(), meter.used()
            return Drained(jobs, end - _first(counts), cpu)


def _is_done(looking: psycopg.Connection[tuple[bool]], peer: Peer, counts: Path, jobs: int) -> bool:
    if sum(one["ran"] for one in _read(counts)) < jobs:
        return False
    row = looking.execute(peer.left.encode()).fetchone() if peer.left else (False,)
    assert row is not None
    return not row[0]


def _first(counts: Path) -> float:
    return min(float(one["first_at"]) for one in _read(counts))


def _read(counts: Path) -> list[dict[str, float]]:
    return [json.loads(file.read_text()) for file in counts.glob("*.json")]


def _database(system: System, name: str) -> str:
    """Create the peer's database again; return its URL."""
    database = f"peer_{name}"
    system.postgres.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)".encode())
    system.postgres.execute(f"CREATE DATABASE {database}".encode())
    system.postgres.execute("CHECKPOINT")
    return f"{system.database_url.rsplit('/', 1)[0]}/{database}"


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise RuntimeError(f"{' '.join(command[2:])} failed: {last}")
