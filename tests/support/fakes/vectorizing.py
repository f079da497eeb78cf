"""Vectorization for tests: how to run it, and the records and jobs in the test's database."""

import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import psycopg
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from gristmill_testing.mill import Heard
from gristmill_testing.waiting import until
from tests.conftest import sqlalchemy_url
from tests.support.fakes.embedder import vector_of
from workers.runtime.enqueue import enqueue
from workers.runtime.handler.ports import EmbeddingLimits

LIMITS = EmbeddingLimits(texts=8, tokens=2_000, requests=4)
Running = Callable[..., AbstractAsyncContextManager[Heard]]


class Rows:
    """Inserts projects, records and jobs into a test's database, reads them and waits for them."""

    def __init__(self, url: str, psql: "psycopg.Connection[dict[str, Any]]") -> None:
        self._url = url
        self._psql = psql
        self.project = self.make_project()

    def one(self, sql: str, *values: Any) -> Any:
        row = self._psql.execute(sql.encode(), values).fetchone()
        assert row is not None
        return next(iter(row.values()))

    def make_project(self) -> uuid.UUID:
        made: uuid.UUID = self.one("INSERT INTO operations.projects (name) VALUES (%s) RETURNING id", str(uuid.uuid4()))
        return made

    def add(self, *texts: str, job: uuid.UUID | None = None, type_: str = "TASK", **more: Any) -> list[uuid.UUID]:
        """Insert records without vectors; return their ids in order."""
        project = more.get("project", self.project)
        sql = """INSERT INTO operations.data_records ("projectId", type, source, content, "ingestJobId")
                 VALUES (%s, %s::operations."RecordType", 'test', %s, %s) RETURNING id"""
        return [self.one(sql, project, type_, text, job) for text in texts]

    def job(self, *, loaded: bool = True, type_: str = "TASK", project: uuid.UUID | None = None) -> uuid.UUID:
        """Enqueue a job that loads a file, or one that re-embeds; its first stage has not run yet."""
        engine = create_engine(sqlalchemy_url(self._url))
        payload = {"project_id": str(project or self.project), "type": type_}
        with Session(engine) as session, session.begin():
            job = enqueue(session, "vectorization.embed", payload, due_at="2999-01-01T00:00:00Z").id
        engine.dispose()
        if loaded:
            with self._psql.transaction():  # the guards refuse a changed request, so they are turned off here
                self._psql.execute("SET LOCAL session_replication_role = replica")
                self.one("UPDATE operations.ingest_jobs SET source = 'csv:test.csv' WHERE id = %s RETURNING id", job)
        return job

    def start(self, job: uuid.UUID) -> None:
        """Let the job be dispatched."""
        self.one("UPDATE operations.ingest_jobs SET due_at = NULL WHERE id = %s RETURNING id", job)

    def row(self, job: uuid.UUID) -> dict[str, Any]:
        row = self._psql.execute("SELECT * FROM operations.ingest_jobs WHERE id = %s", (job,)).fetchone()
        assert row is not None
        return row

    def vectors(self) -> dict[str, tuple[list[float], str | None]]:
        """Return the vector and the model of every record, by content."""
        rows = self._psql.execute('SELECT content, embedding, "embeddingModel" AS model FROM operations.data_records')
        return {row["content"]: (row["embedding"], row["model"]) for row in rows.fetchall()}

    def assert_embedded(self, *texts: str, model: str = "embed-1", dimension: int = 8) -> None:
        """Fail unless each of these records has the model's vector of its text."""
        found = self.vectors()
        for text in texts:
            assert found[text] == (vector_of(text, model, dimension), model), text

    async def moved(self, job: uuid.UUID, action: str, *, within: float = 20.0) -> dict[str, Any]:
        """Return the job's row once its last transition in its second stage is ``action``."""
        await until(lambda: self._last(job) == (action, "QUEUED_FOR_VEC"), within=within)
        return self.row(job)

    def _last(self, job: uuid.UUID) -> tuple[Any, Any]:
        row = self.row(job)
        return row["change_action"], row["status"]

    async def ends(self, job: uuid.UUID) -> dict[str, Any]:
        """Return the job's row once it is in a terminal state."""
        await until(lambda: self.row(job)["completed_at"], within=20.0)
        return self.row(job)


def texts_of(count: int, word: str = "record") -> list[str]:
    return [f"{word} number {number}" for number in range(count)]
