"""Real servers and real role processes for one benchmark run, in a folder that is deleted at its end."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
from alembic import command
from alembic.config import Config
from redis import Redis
from sqlalchemy import Engine

from local.embedded import EmbeddedServers
from tests.support.proving.schema import create as create_proving_tables
from workers.runtime.connections import connect
from workers.runtime.database import pinned_engine

STOP_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class System:
    """The servers' URLs, a folder for the files of processes, and connections for set-up and queries."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    folder: Path
    engine: Engine
    postgres: psycopg.Connection[Any]
    postmaster: int
    valkey: int

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every process."""
        return {**os.environ, "DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url}

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Return the first column of the one row of ``sql``."""
        row = self.postgres.execute(sql.encode(), parameters).fetchone()
        assert row is not None
        return row[0]


@contextmanager
def system() -> Iterator[System]:
    """Start durable servers (fsync on) with the whole schema and the proving tables."""
    with tempfile.TemporaryDirectory(prefix="gristmill-bench-") as folder:
        servers = EmbeddedServers(Path(folder) / "data")
        urls = servers.start()
        engine = pinned_engine(urls.database_url)
        try:
            config = Config("alembic.ini")
            config.attributes["url"] = urls.database_url
            command.upgrade(config, "head")
            with engine.begin() as connection:
                create_proving_tables(connection)
            with connect(urls.database_url, autocommit=True) as postgres:
                postmaster = psutil.Process(postgres.info.backend_pid).ppid()
                with Redis.from_url(urls.redis_url) as redis:
                    valkey = int(redis.info("server")["process_id"])
                yield System(urls.database_url, urls.redis_url, Path(folder), engine, postgres, postmaster, valkey)
        finally:
            engine.dispose()
            servers.remove()


@contextmanager
def processes(
    commands: Sequence[Sequence[str]], environment: Mapping[str, str], *, log: Path | None = None
) -> Iterator[list[int]]:
    """Run these commands while the block runs; stop them with SIGTERM, then SIGKILL, and always wait for them.

    If a process ended by itself, raise an error with its last line.
    """
    running: list[subprocess.Popen[bytes]] = []
    try:
        with (log or Path(os.devnull)).open("ab") as output:
            for argv in commands:
                running.append(subprocess.Popen(argv, env=dict(environment), stdout=output, stderr=output))  # noqa: PERF401 - after a failure these are stopped
        yield [process.pid for process in running]
        for process in running:
            if process.poll() is not None:
                last = log.read_text(errors="replace").strip().splitlines()[-1:] if log else []
                raise RuntimeError(f"{' '.join(process.args)[-80:]} ended by itself: {' '.join(last)}")  # type: ignore[arg-type]
    finally:
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def served(module: str, *arguments: str) -> Iterator[str]:
    """Run one of our servers, which prints its base URL first; yield the URL; stop the server at the end."""
    with subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def wait_for(
    condition: Callable[[], object], *, seconds: float, every: float = 0.05, alive: Sequence[int] = ()
) -> None:
    """Poll ``condition`` until it holds; raise TimeoutError, or at once RuntimeError if one of ``alive`` has ended."""
    give_up = time.monotonic() + seconds
    while not condition():
        for pid in alive:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                raise RuntimeError("a needed process ended by itself")
        if time.monotonic() > give_up:
            raise TimeoutError(f"the condition did not hold within {seconds:g} s")
        time.sleep(every)


Cpu = dict[str, float]


class Meter:
    """Measures processor time by group of processes. On a shared machine this is more stable than a rate."""

    def __init__(self, system: System, groups: Mapping[str, Sequence[int]]) -> None:
        self._groups = {**groups, "postgres": [system.postmaster], "valkey": [system.valkey]}
        self._before = self._now()

    def used(self) -> Cpu:
        """Return the seconds that each group has used."""
        return {name: after - self._before[name] for name, after in self._now().items()}

    def _now(self) -> Cpu:
        return {name: sum(map(cpu_seconds, pids)) for name, pids in self._groups.items()}


def cpu_seconds(pid: int) -> float:
    """Return the processor time of ``pid``, of its running children, and of ended children that it waited for."""
    process = psutil.Process(pid)
    own = process.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in process.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:  # it has ended; its time is in the parent's at the next call
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total
