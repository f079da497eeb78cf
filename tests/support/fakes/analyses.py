"""Analyses for tests: projects, records and jobs in the test's database, and the questions to a fake provider."""

import asyncio
import base64
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.orm import Session

from tests.conftest import sqlalchemy_url
from tests.support.fakes.alignment import record_in
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.paths import ROOT
from workers.runtime.enqueue import enqueue

GUIDELINES = (ROOT / "samples" / "guidelines.pdf").read_bytes()
BOOK = ROOT.parent / "shared" / "data" / "prompting-book-en.pdf"
EMBEDDER = "embedder-1"
# On a busy machine the first steps take seconds.
BUSY_SECONDS = 60.0
TASK = "Write an email to the customer that says what happened, at most {} words, plain text with a subject line."


class Analyses:
    """Inserts projects, records and analyses into a test's database, reads them and waits for them."""

    def __init__(self, url: str, connection: Connection) -> None:
        self._engine = create_engine(sqlalchemy_url(url))
        self._connection = connection

    def ask(self, sql: str, **values: Any) -> Sequence[Any]:
        return self._connection.execute(text(sql), values).all()

    def run(self, sql: str, **values: Any) -> None:
        self._connection.execute(text(sql), values)

    async def meanwhile(self, sql: str, **values: Any) -> None:
        """Run a statement in a thread, because it may wait for a job of this event loop."""
        await asyncio.to_thread(self.run, sql, **values)

    def project(self, *, guidelines: bytes | None = GUIDELINES) -> uuid.UUID:
        encoded = None if guidelines is None else base64.b64encode(guidelines).decode()
        sql = "INSERT INTO operations.projects (name, guidelines) VALUES (:name, :g) RETURNING id"
        found: uuid.UUID = self.ask(sql, name=f"p {uuid.uuid4()}", g=encoded)[0].id
        return found

    def records(self, project: uuid.UUID, contents: Sequence[str], *, type_: str = "TASK") -> list[uuid.UUID]:
        sql = (
            'INSERT INTO operations.data_records ("projectId", type, source, content) '
            "SELECT :p, CAST(:t AS operations.\"RecordType\"), 'test', c "
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
        """Return the rows of all judged records, by their content."""
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

    def close(self) -> None:
        self._engine.dispose()


def asked_about(fake: FakeOpenAI) -> Counter[str]:
    """Return the number of questions about each record."""
    return Counter(content for request in fake.requests if (content := record_in(request)) is not None)
