"""Real servers and real role processes for one benchmark run, in a folder that vanishes with it."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine

from cli.embedded import EmbeddedServers
from tests.proving.schema import create as create_proving_tables


@dataclass(frozen=True, slots=True)
class System:
    """Where the servers are, and an engine to arrange and to look."""

    database_url: str
    redis_url: str
    engine: Engine
    postgres: psycopg.Connection[Any]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url}


@contextmanager
def system() -> Iterator[System]:
    """Start durable servers (fsync on) with the proving tables."""
    with tempfile.TemporaryDirectory(prefix="gristmill-bench-") as folder:
        servers = EmbeddedServers(Path(folder) / "data")
        urls = servers.start()
        try:
            config = Config("alembic.ini")
            config.attributes["url"] = urls.database_url
            command.upgrade(config, "head")
            engine = create_engine(urls.database_url.replace("postgresql://", "postgresql+psycopg://", 1))
            with engine.begin() as connection:
                create_proving_tables(connection)
            with psycopg.connect(urls.database_url, autocommit=True) as postgres:
                yield System(urls.database_url, urls.redis_url, engine, postgres)
            engine.dispose()
        finally:
            servers.remove()


@contextmanager
def processes(commands: Sequence[Sequence[str]], environment: dict[str, str]) -> Iterator[list[int]]:
    """Run these commands while the block lasts; stop them by SIGTERM, then SIGKILL, and always wait for them."""
    running = [
        subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for argv in commands
    ]
    try:
        yield [process.pid for process in running]
    finally:
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def roles(workers: int, *, slots: int) -> list[list[str]]:
    """Return the commands of one Gristmill: so many worker processes and one dispatcher."""
    options = json.dumps({"slots": slots, "heartbeat_seconds": 5.0, "lease_seconds": 30.0})
    worker = [sys.executable, "-m", "tests.proving", "worker", options]
    return [worker] * workers + [[sys.executable, "-m", "tests.proving", "dispatcher"]]


def wait_for(condition: Any, *, seconds: float, every: float = 0.05) -> None:
    """Poll ``condition`` until it holds; give up with TimeoutError."""
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"condition did not hold within {seconds:g} s")
        time.sleep(every)


def cpu_seconds(pid: int) -> float:
    """Return the processor time of ``pid`` and the children it has waited for or still has."""
    process = psutil.Process(pid)
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        times = each.cpu_times()
        total += times.user + times.system
    return total
