"""Upload a file of this machine: make its project if there is none, store the file, enqueue its job."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from cli.connection import actor
from cli.previewing import PIECE_BYTES, LocalFile, file_name, open_file
from workers.ingestion.enqueue_file import ingest_file, inspect_head
from workers.ingestion.kinds import FileKind
from workers.ingestion.refusals import naming_file
from workers.ingestion.unwrapping import HEAD_BYTES
from workers.operations.projects import find_by_ingestion, for_use
from workers.runtime.database import Database
from workers.runtime.enqueue import Enqueued


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """The job of a file, and its project."""

    job: Enqueued
    project_id: UUID
    project: str


async def upload_file(
    database: Database,
    file: Path,
    *,
    project: str,
    mapping: Mapping[str, str],
    reading: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    **options: Any,
) -> UploadedFile:
    """Store ``file`` and enqueue its ingestion; ``options`` are those of ``ingest_file``.

    A project that does not exist is made. Others can see it during the upload. It is deleted if the upload fails.
    ``reading`` says how to read the file. ``-`` is standard input.
    """
    name, how = file_name(file), reading or {}
    with naming_file(name), open_file(file) as opened:
        head = await asyncio.to_thread(opened.read, HEAD_BYTES)
        kind = await inspect_head(head, mapping, name=name, options=how)
        if kind is FileKind.XLSX and len(head) == HEAD_BYTES and opened.seekable():
            await LocalFile(opened).check(name=name, mapping=mapping, options=how)
            opened.seek(HEAD_BYTES)
        async with for_use(database, project, actor=actor()) as found, database.session() as session:
            job = await ingest_file(
                session,
                project_id=found.id,
                stream=_pieces(head, opened),
                file_name=name,
                mapping=mapping,
                options=reading,
                idempotency_key=idempotency_key,
                actor=actor(),
                **options,
            )
    if not job.created:  # the key is that of an earlier job, which may belong to another project
        async with database.session() as session:
            found = await find_by_ingestion(session, job.id) or found
    return UploadedFile(job, found.id, found.name)


async def _pieces(head: bytes, file: IO[bytes]) -> AsyncIterator[bytes]:
    yield head
    while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
        yield piece
