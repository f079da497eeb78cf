"""Vectorization by the real kernel on real Postgres, with a real HTTP server that counts and fails."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel

from gristmill_testing.mill import Heard, mill
from models.operations import IngestJob
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.fakes.vectorizing import LIMITS, Rows, Running
from workers.llm.provider import build
from workers.runtime.handler.context import Context
from workers.runtime.handler.outcomes import Complete, Outcome
from workers.runtime.handler.ports import EmbeddingLimits
from workers.runtime.handler.registry import Registry, stage


class Anything(BaseModel):
    """A payload that no test writes."""


@pytest.fixture(scope="module")
def stages(registry: Registry) -> Registry:
    """The stage under test, after a first stage that loads nothing."""
    made = Registry()
    made.add(registry["vectorization.embed"])

    @stage("ingestion.ingest", of=IngestJob, payload=Anything, into=made)
    async def load_nothing(_job: IngestJob, _ctx: Context) -> Outcome:
        return Complete()

    return made


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    """A fake OpenAI server."""
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture
def running(database_url: str, stages: Registry, fake: FakeOpenAI) -> Running:
    """Run a mill that gets its vectors from the fake server."""

    @asynccontextmanager
    async def run(*, model: str = "embed-1", limits: EmbeddingLimits = LIMITS) -> AsyncIterator[Heard]:
        llm = build(
            api_key="k",
            base_url=fake.url,
            model=None,
            connect_timeout=2.0,
            timeout=10.0,
            max_connections=16,
            embedding_model=model,
            embedding_limits=limits,
        )
        async with mill(database_url, stages, llm) as heard:
            yield heard
        await llm.aclose()

    return run


@pytest.fixture
def rows(database_url: str, psql: Any) -> Rows:
    """The test's rows."""
    return Rows(database_url, psql)
