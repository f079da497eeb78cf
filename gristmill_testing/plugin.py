"""Fixtures for pytest. They need ``gristmill[testing]``; enable them with ``pytest_plugins``."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from gristmill_testing.database import empty_database
from gristmill_testing.model import ScriptedModel
from gristmill_testing.worker import RunningWorker, running_worker
from local.embedded import throwaway_servers
from migrations.upgrade import move
from workers.runtime.database import Database
from workers.runtime.handler.registry import discover


@pytest.fixture(scope="session")
def migrated_database_url() -> Iterator[str]:
    """A real PostgreSQL for this session, with the tables of gristmill and of all installed domains."""
    with throwaway_servers(valkey=False) as servers:
        move(servers.urls.database_url)
        yield servers.urls.database_url


@pytest.fixture
def database_url(migrated_database_url: str) -> str:
    """The URL of a migrated database without rows."""
    empty_database(migrated_database_url)
    return migrated_database_url


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The database. Open a session with ``async with database.session() as session``."""
    database = Database(database_url, changed_by="test")
    yield database
    await database.close()


@pytest.fixture
def fake_model() -> ScriptedModel:
    """The model that the worker asks. Script it with ``will_answer({…})``; ``asked`` holds the questions."""
    return ScriptedModel()


@pytest_asyncio.fixture
async def worker(database_url: str, fake_model: ScriptedModel) -> AsyncIterator[RunningWorker]:
    """A worker for every installed stage: ``job = await worker.run("my.stage", {…})``."""
    async with running_worker(database_url, discover(), fake_model) as worker:
        yield worker
