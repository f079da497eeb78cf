"""Analyses by the real kernel on real Postgres, judged by rules or by a real HTTP server that counts its calls."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager

import pytest
from sqlalchemy import Connection

from gristmill_testing.mill import Heard, mill
from tests.integration.analytics.runs import Runs
from tests.support.fakes.analyses import EMBEDDER, Analyses
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.kernel import Jobs
from workers.llm.offline import OfflineEvaluator
from workers.llm.provider import build
from workers.runtime.handler.registry import Registry


@pytest.fixture
def runs(jobs: Jobs) -> Runs:
    """The test's runs."""
    return Runs(jobs)


@pytest.fixture
def analyses(database_url: str, connection: Connection) -> Iterator[Analyses]:
    """The test's analyses."""
    found = Analyses(database_url, connection)
    yield found
    found.close()


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    """A fake OpenAI server."""
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture
def offline(database_url: str, registry: Registry) -> AbstractAsyncContextManager[Heard]:
    """A mill without a provider."""
    return mill(database_url, registry, OfflineEvaluator())


@pytest.fixture
async def asking(
    database_url: str, registry: Registry, fake: FakeOpenAI
) -> AsyncIterator[AbstractAsyncContextManager[Heard]]:
    """A mill that asks the fake server."""
    llm = build(
        api_key="sk-test",
        base_url=fake.url,
        model="judge-1",
        embedding_model=EMBEDDER,
        connect_timeout=2.0,
        timeout=10.0,
        max_connections=64,
    )
    yield mill(database_url, registry, llm)
    await llm.aclose()
