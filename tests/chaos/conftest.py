"""The data of a correct run, for the tests of the checker."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from local.embedded import EmbeddedServers
from tests.chaos.sound import Reader, SoundRun, sound_run
from tests.conftest import create_database, drop_database
from tests.support.fakes.openai_server import FakeOpenAI
from workers.runtime.handler.registry import Registry


@pytest.fixture(scope="session")
def left(servers: EmbeddedServers, template: str, registry: Registry) -> Iterator[SoundRun]:
    """One run for all tests. Each test damages it in a transaction that is rolled back."""
    url = create_database(servers.urls.database_url, "judged", template=template)
    with FakeOpenAI() as fake:
        yield asyncio.run(sound_run(url, registry, fake))
    drop_database(servers.urls.database_url, "judged")


@pytest.fixture
async def reader(left: SoundRun) -> AsyncIterator[Reader]:
    """A transaction on the database of the run, without triggers; it is rolled back after the test."""
    async with (
        await psycopg.AsyncConnection.connect(left.url) as connection,
        connection.transaction(force_rollback=True),
    ):
        await connection.execute("SET LOCAL session_replication_role = replica")
        yield connection
