"""Ingestion by the real handler and kernel on real Postgres. The next stage does not run."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from gristmill_testing.mill import mill
from models.operations import IngestJob, Project
from tests.support.fakes.ingesting import Ingestion
from tests.support.proving.llm import NoModel
from workers.runtime.database import Database
from workers.runtime.handler.registry import Registry


@pytest.fixture
def only_ingestion(registry: Registry) -> Registry:
    """Only the stage that is tested here."""
    only = Registry()
    only.add(registry["ingestion.ingest"])
    return only


@pytest.fixture
async def project(database: Database) -> UUID:
    """A project to ingest into."""
    async with database.session() as session:
        session.add(made := Project(name="p"))
    return made.id


@pytest.fixture
def ingestion(database: Database, project: UUID) -> Ingestion:
    """The test's files and their jobs."""
    return Ingestion(database, project)


@pytest.fixture
async def ingest(
    ingestion: Ingestion, database_url: str, only_ingestion: Registry
) -> Callable[..., Awaitable[IngestJob]]:
    """Ingest one file and return its job when it has ended."""

    async def run(content: str | bytes, **options: Any) -> IngestJob:
        enqueued = await ingestion.enqueue(content, **options)
        async with mill(database_url, only_ingestion, NoModel()):
            (job,) = await ingestion.ended(enqueued.id)
        return job

    return run
