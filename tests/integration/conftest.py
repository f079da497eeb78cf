"""The tests of the kernel: jobs in any state, small worker processes, a listener of all notifications."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cli.main import main
from tests.support.command_line import Gristmill
from tests.support.fakes.road import FakeRoad
from tests.support.kernel import PLAIN, Jobs, WorkerProcess, dispatching, started_worker
from tests.support.log_setup import restored_logging
from tests.support.proving.models import PlainJob
from tests.support.proving.stages import Act
from workers.runtime.database import Database
from workers.runtime.handler.registry import Handler, Registry, Stage, stage

StartWorker = Callable[..., Awaitable[WorkerProcess]]
StartDispatcher = Callable[..., Awaitable[FakeRoad]]


@pytest.fixture
def gristmill(
    database_url: str,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Gristmill]:
    """Run one command in its own folder, without a provider; return its exit code, output and error output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", redis_url)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "GRISTMILL_LLM__EMBEDDING_MODEL"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gristmill", *arguments])
        capsys.readouterr()
        code = main()
        said = capsys.readouterr()
        # A mill of this process logs where the command prints.
        printed = [line for line in said.out.splitlines(keepends=True) if "[info " not in line]
        return code, "".join(printed), said.err.strip()

    with restored_logging():
        yield run


@pytest.fixture
async def jobs(database: Database, registry: Registry) -> Jobs:
    """Jobs in any state, in the test's own database."""
    return Jobs(database, registry)


@pytest.fixture
def plain(registry: Registry) -> Stage:
    """The stage of the plain proving jobs."""
    return registry[PLAIN]


@pytest.fixture
async def start_worker(database_url: str, registry: Registry) -> AsyncIterator[StartWorker]:
    """Start worker processes on the test's database; they stop with the test."""
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> WorkerProcess:
            return await stack.enter_async_context(started_worker(database_url, registry, **options))

        yield start


@pytest.fixture
async def worker(start_worker: StartWorker) -> WorkerProcess:
    """One worker process of fifty slots."""
    return await start_worker()


@pytest.fixture
async def listener(database_url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection that listens on the channels of the kernel."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute("LISTEN gristmill_work")
        await connection.execute("LISTEN gristmill_fence")
        yield connection


class Handlers:
    """A registry with one stage, which runs the handler of the test."""

    def __init__(self) -> None:
        self.registry = Registry()

    def __call__(self, handler: Handler[PlainJob]) -> Handler[PlainJob]:
        return stage(PLAIN, of=PlainJob, payload=Act, into=self.registry)(handler)


@pytest.fixture
def perform() -> Handlers:
    """Register the handler that the test decorates."""
    return Handlers()


@pytest.fixture
async def start_dispatcher(database_url: str, registry: Registry) -> AsyncIterator[StartDispatcher]:
    """Start dispatchers, each with its own fake broker or the given one; they stop with the test."""
    async with AsyncExitStack() as stack:

        async def start(road: FakeRoad | None = None, **options: Any) -> FakeRoad:
            road = road or FakeRoad()
            await stack.enter_async_context(dispatching(database_url, registry, road, **options))
            return road

        yield start
