"""Kept answers on real Postgres: processes that ask, and the jobs that they ask for."""

import uuid
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from tests.support.admission_fixtures import admission, clock, rows  # noqa: F401 - fixtures
from tests.support.kernel import PLAIN, Jobs
from workers.llm.calls import Caller
from workers.llm.kept import KeptAnswer, Question
from workers.llm.kept.postgres_kept import PostgresKept
from workers.runtime.database import Database

SHARED = timedelta(hours=24)


class Score(BaseModel):
    """What is asked for."""

    score: int


def answer(score: int = 4, **more: Any) -> KeptAnswer:
    """Return a valid answer."""
    body = {"choices": [{"message": {"content": f'{{"score": {score}}}'}, "finish_reason": "stop"}], **more}
    return KeptAnswer(raw=body, model="m-1", prompt_tokens=7, completion_tokens=3, seconds=0.5)


def question(
    job: Any,
    text: str = "q",
    *,
    owner: UUID | None = None,
    share_for: timedelta | None = None,
    version: int | None = None,
) -> Question:
    """Return a question of the run of ``job``."""
    caller = Caller(
        stage=PLAIN, job_id=job.id, version=version or job.version, attempt=1, owner_id=owner or job.owner_id
    )
    return Question(
        fingerprint=text.encode().ljust(32, b".")[:32],
        caller=caller,
        share_for=share_for,
        into=Score,
        route="default",
        provider="p",
        model="m",
    )


@pytest.fixture
async def kept(database: Database) -> AsyncIterator[PostgresKept]:
    """What one process keeps and finds."""
    kept = PostgresKept(database, max_wait=timedelta(0))
    yield kept
    await kept.aclose()


@pytest.fixture
async def start_kept(database_url: str) -> AsyncIterator[Callable[..., PostgresKept]]:
    """Start further processes, each with connections of its own."""
    started: list[tuple[PostgresKept, Database]] = []

    def start(**options: Any) -> PostgresKept:
        database = Database(database_url, changed_by=f"worker:{uuid.uuid4()}")
        kept = PostgresKept(database, **{"max_wait": timedelta(0), **options})
        started.append((kept, database))
        return kept

    yield start
    for kept, database in started:
        await kept.aclose()
        await database.close()


@pytest.fixture
async def run_jobs(jobs: Jobs) -> Callable[..., Any]:
    """Return jobs that run."""

    async def running(count: int = 1, **job: Any) -> list[Any]:
        return await jobs.running(PLAIN, count, **job)

    return running
