"""Ingestion for tests: enqueue files and read their jobs and records."""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text

from gristmill_testing.waiting import until
from models.base import Base
from models.operations import DataRecord, IngestJob
from tests.support.proving.llm import NoModel
from workers.ingestion.enqueue_file import ingest_file
from workers.runtime.database import Database
from workers.runtime.enqueue import Enqueued
from workers.runtime.handler.context import Context, Run
from workers.runtime.handler.resources import Resources
from workers.runtime.store.checkpoint import checkpoint

ENDED = {"QUEUED_FOR_VEC", "FAILED", "CANCELLED"}
# The typical defects of real exports, all in one file.
MESS = (
    "\ufeffid;Prompt;Category;Author;Prompt;\r\n"
    '1;"two\nlines; ""quoted""";top 10;ann;second;x\r\n'
    "2;=1+1;Bottom10;bob;;y\r\n"
    "\r\n"
    "3;short\r\n"
    "4;long;TOP_10;cy;;z;extra;more\r\n"
    "5;=1+1;;bob\r\n"
    "6;   ;;\r\n"
    "7;fine;excellent;\r\n"
    "8;nul\x00byte;;\r\n"
    '9;"never closed;;\r\n'
    "10;last;; \r\n"
)


async def stream(content: bytes, size: int = 70_000) -> AsyncIterator[bytes]:
    """Yield ``content`` in pieces of ``size``, like a client sends it."""
    for at in range(0, len(content), size):
        yield content[at : at + size]


class Ingestion:
    """Enqueues files into one project and reads their jobs and records."""

    def __init__(self, database: Database, project_id: UUID) -> None:
        self.database = database
        self.project_id = project_id

    async def enqueue(self, content: str | bytes, **options: Any) -> Enqueued:
        content = content.encode() if isinstance(content, str) else content
        options = {"type": "TASK", "file_name": "f.csv", "project_id": self.project_id, **options}
        async with self.database.session() as session:
            return await ingest_file(session, stream=stream(content), **options)

    async def enqueue_in_sql(self, file: bytes, mapping: dict[str, str]) -> UUID:
        call = "SELECT operations.enqueue_ingest(:project, 'TASK', :csv, 'f.csv', CAST(:mapping AS jsonb))"
        values = {"project": self.project_id, "csv": file, "mapping": json.dumps(mapping)}
        async with self.database.session() as session:
            return UUID(str((await session.execute(text(call), values)).scalar_one()))

    async def job(self, job_id: UUID) -> IngestJob:
        """Return the job; it must exist."""
        job = await self.job_if_any(job_id)
        assert job is not None
        return job

    async def job_if_any(self, job_id: UUID) -> IngestJob | None:
        async with self.database.session() as session:
            return await session.get(IngestJob, job_id)

    async def ended(self, *job_ids: UUID) -> list[IngestJob]:
        """Wait until the jobs have ended; return them in the order of their ids."""

        async def all_ended() -> bool:
            return ENDED.issuperset([(await self.job(job_id)).status for job_id in job_ids])

        await until(all_ended, within=60)
        return [await self.job(job_id) for job_id in job_ids]

    async def records(self) -> Sequence[DataRecord]:
        async with self.database.session() as session:
            return (await session.scalars(select(DataRecord).order_by(DataRecord.id))).all()

    async def count(self, model: type[Base]) -> int:
        async with self.database.session() as session:
            return await session.scalar(select(func.count()).select_from(model)) or 0


class PowerCutError(Exception):
    """The worker's process ends here."""


def now() -> datetime:
    return datetime.now(UTC)


def surroundings(database: Database, job: IngestJob, *, commits: int, clock: Callable[[], datetime] = now) -> Context:
    """Return the context of a run. It raises PowerCutError after the given number of commits."""
    left = commits

    async def keep(values: Mapping[str, Any], write: Any = None) -> None:
        nonlocal left
        async with database.session() as session:
            assert await checkpoint(session, IngestJob, (job.id, job.version), values)
            if write and (found := await write(session)):
                await checkpoint(session, IngestJob, (job.id, job.version), found)
        left -= 1
        if not left:
            raise PowerCutError

    return Context(
        run=Run("ingestion.ingest", job.id, job.version, 1),
        resources=Resources(llm=NoModel()),
        session=database.session,
        progress=_unasked,
        checkpoint=keep,
        clock=clock,
    )


def _unasked(*_):
    raise AssertionError("ingestion must not call this")
