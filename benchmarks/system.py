"""Real servers and real role processes for one benchmark run, in a folder that vanishes with it."""

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
    """Where the servers are, a folder for what processes leave, and connections to arrange and to look."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    folder: Path
    engine: Engine
    postgres: psycopg.Connection[Any]
    postmaster: int
    valkey: int

    @property
    def environment(self) -> dict[str, str]:
        """What every process is started with."""
        return {**os.environ, "DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url}

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Return the first column of the one row that ``sql`` finds."""
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
    """Run these commands while the block lasts; stop them by SIGTERM, then SIGKILL, and always wait for them.

    A process that ended by itself is an error that quotes the last line it said.
    """
    running: list[subprocess.Popen[bytes]] = []
    try:
        with (log or Path(os.devnull)).open("ab") as output:
            for argv in commands:
                running.append(subprocess.Popen(argv, env=dict(environment), stdout=output, stderr=output))  # noqa: PERF401 - those started before a failure must be stopped
        yield [process.pid for process in running]
        for process in running:
            if process.poll() is not None:
                said = log.read_text(errors="replace").strip().splitlines()[-1:] if log else []
                raise RuntimeError(f"{' '.join(process.args)[-80:]} ended by itself: {' '.join(said)}")  # type: ignore[arg-type]
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
    """Run a server of ours that prints its base URL first; yield that, and stop the server with the block."""
    with subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def wait_for(
    condition: Callable[[], object], *, seconds: float, every: float = 0.05, alive: Sequence[int] = ()
) -> None:
    """Poll ``condition`` until it holds; give up with TimeoutError, and at once if one of ``alive`` has ended."""
    give_up = time.monotonic() + seconds
    while not condition():
        for pid in alive:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                raise RuntimeError("a process that was to do it has ended by itself")
        if time.monotonic() > give_up:
            raise TimeoutError(f"nothing came of it within {seconds:g} s")
        time.sleep(every)


Cpu = dict[str, float]


class Meter:
    """Processor time by group of processes, since it was made. Steadier than any rate on a shared machine."""

    def __init__(self, system: System, groups: Mapping[str, Sequence[int]]) -> None:
        self._groups = {**groups, "postgres": [system.postmaster], "valkey": [system.valkey]}
        self._before = self._now()

    def used(self) -> Cpu:
        """Return the seconds that each group has used."""
        return {name: after - self._before[name] for name, after in self._now().items()}

    def _now(self) -> Cpu:
        return {name: sum(map(cpu_seconds, pids)) for name, pids in self._groups.items()}


def cpu_seconds(pid: int) -> float:
    """Return the processor time of ``pid``, its living children and those it has waited for."""
    process = psutil.Process(pid)
    own = process.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in process.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:  # ended meanwhile: its time is the parent's at the next look
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total
