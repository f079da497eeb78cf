"""Analyses through the real kernel on real Postgres, judged by rules or by a real HTTP server that counts its calls."""

import asyncio
import base64
import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.orm import Session

from models.operations import LLM_USER, AnalyticsJob
from tests.conftest import sqlalchemy_url
from tests.fakes.alignment import record_in
from tests.fakes.mill import Heard, mill
from tests.fakes.openai_server import FakeOpenAI
from workers.llm.offline import OfflineEvaluator
from workers.llm.provider import build
from workers.runtime.database import Database
from workers.runtime.enqueue import EnqueueError, enqueue
from workers.runtime.errors import Permanent, Retryable
from workers.runtime.ports import Embeddings
from workers.runtime.registry import Registry
from workers.runtime.store.intervene import cancel

ROOT = Path(__file__).parents[2]
GUIDELINES = (ROOT / "samples" / "guidelines.pdf").read_bytes()
BOOK = ROOT.parent / "shared" / "data" / "prompting-book-en.pdf"
TASK = "Write an email to the customer that says what happened, at most {} words, plain text with a subject line."


class HalfModel(OfflineEvaluator):
    """Vectors by hash, answers by whom it is given: an analysis asks two providers' worth of questions."""

    def __init__(self, judge: Any) -> None:
        self.judge = judge
        self.embedded: list[str] = []
        self.refuses: str | None = None

    async def resolve(self, model: str) -> str:
        return str(await self.judge.resolve(model))

    async def parse(self, messages: Any, *, into: Any, model: str, parameters: Any = None) -> Any:
        return await self.judge.parse(messages, into=into, model=model, parameters=parameters)

    async def embed(self, texts: Sequence[str], *, model: str) -> Embeddings:
        self.embedded += texts
        if self.refuses and any(self.refuses in text for text in texts):
            raise Permanent("input exceeds the model's context (HTTP 400)")
        return await super().embed(texts, model=model)

    async def aclose(self) -> None:
        await self.judge.aclose()


class Analyses:
    """Projects, records and analyses of a test's database: put in, look, wait."""

    def __init__(self, url: str, connection: Connection) -> None:
        self._engine = create_engine(sqlalchemy_url(url))
        self._connection = connection

    def ask(self, sql: str, **values: Any) -> Sequence[Any]:
        return self._connection.execute(text(sql), values).all()

    def run(self, sql: str, **values: Any) -> None:
        self._connection.execute(text(sql), values)

    def project(self, *, guidelines: bytes | None = GUIDELINES) -> uuid.UUID:
        encoded = None if guidelines is None else base64.b64encode(guidelines).decode()
        sql = "INSERT INTO operations.projects (name, guidelines) VALUES (:name, :g) RETURNING id"
        found: uuid.UUID = self.ask(sql, name=f"p {uuid.uuid4()}", g=encoded)[0].id
        return found

    def records(self, project: uuid.UUID, contents: Sequence[str], *, type_: str = "TASK") -> list[uuid.UUID]:
        sql = (
            'INSERT INTO operations.data_records ("projectId", type, source, content) '
            'SELECT :p, CAST(:t AS operations."RecordType"), \'test\', c '
            "FROM unnest(CAST(:c AS text[])) WITH ORDINALITY AS x (c, n) ORDER BY n RETURNING id"
        )
        return [row.id for row in self.ask(sql, p=project, t=type_, c=list(contents))]

    def tasks(self, project: uuid.UUID, count: int) -> list[uuid.UUID]:
        return self.records(project, [TASK.format(number) for number in range(100, 100 + count)])

    def put(self, project: uuid.UUID, **payload: Any) -> uuid.UUID:
        with Session(self._engine) as session, session.begin():
            return enqueue(session, "analytics.align", {"project_id": str(project), **payload}).id

    def row(self, job: uuid.UUID) -> Any:
        found = self.ask("SELECT * FROM operations.analytics_jobs WHERE id = :id", id=job)
        return found[0] if found else None

    def judged(self, project: uuid.UUID) -> dict[str, Mapping[str, Any]]:
        """Return what every judged record has, by its content."""
        sql = 'SELECT * FROM operations.data_records WHERE "projectId" = :p AND alignment IS NOT NULL ORDER BY id'
        return {row.content: row._mapping for row in self.ask(sql, p=project)}

    def failures(self, job: uuid.UUID) -> dict[uuid.UUID, str]:
        sql = 'SELECT "recordId", error FROM operations.analytics_failures WHERE "jobId" = :j'
        return {row.recordId: row.error for row in self.ask(sql, j=job)}

    async def until(self, job: uuid.UUID, *actions: str, seconds: float = 60.0) -> Any:
        """Return the job's row once its last transition is one of ``actions``."""
        give_up = time.monotonic() + seconds
        while (row := self.row(job)).change_action not in actions:
            assert time.monotonic() < give_up, f"job is {row.status} by {row.change_action}: {row.error}"
            await asyncio.sleep(0.02)
        return row

    async def gone(self, what: str, *, seconds: float = 30.0) -> None:
        """Return once a statement finds nothing."""
        give_up = time.monotonic() + seconds
        while self.ask(what):
            assert time.monotonic() < give_up, f"still there: {what}"
            await asyncio.sleep(0.02)

    def close(self) -> None:
        self._engine.dispose()


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
    """A mill without any provider."""
    return mill(database_url, registry, OfflineEvaluator())


@pytest.fixture
async def half(fake: FakeOpenAI) -> AsyncIterator[HalfModel]:
    """The provider of ``asking``: the fake server's answers, vectors by hash."""
    judge = build(
        api_key="sk-test", base_url=fake.url, model=None, connect_timeout=2.0, timeout=5.0, max_connections=64
    )
    yield HalfModel(judge)
    await judge.aclose()


@pytest.fixture
def asking(database_url: str, registry: Registry, half: HalfModel) -> AbstractAsyncContextManager[Heard]:
    """A mill that asks the fake server."""
    return mill(database_url, registry, half)


def asked_about(fake: FakeOpenAI) -> Counter[str]:
    """Return how often each record was asked about."""
    return Counter(content for request in fake.requests if (content := record_in(request)) is not None)
