"""Hand a file of this machine in: its project is made where there is none, the file is kept, its job is enqueued."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from cli.connection import actor
from cli.previewing import PIECE_BYTES, file_name, local, opened_file
from workers.ingestion.enqueue_file import ingest_file, inspect_head
from workers.ingestion.kinds import FileKind
from workers.ingestion.refusals import naming_file
from workers.ingestion.unwrapping import HEAD_BYTES
from workers.operations.projects import find_by_ingestion, for_use
from workers.runtime.database import Database
from workers.runtime.enqueue import Enqueued


@dataclass(frozen=True, slots=True)
class HandedIn:
    """A file's job, and the project it is for."""

    job: Enqueued
    project_id: UUID
    project: str


async def hand_in(
    database: Database,
    file: Path,
    *,
    project: str,
    mapping: Mapping[str, str],
    reading: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    **options: Any,
) -> HandedIn:
    """Keep ``file`` and enqueue its ingestion; ``options`` are those of ``ingest_file``. A new project is made.

    ``reading`` says how the file is to be read; ``-`` is standard input. Others see the project while the file is
    still on its way. A new project is deleted again if nothing came of the file.
    """
    name, said = file_name(file), reading or {}
    with naming_file(name), opened_file(file) as opened:
        head = await asyncio.to_thread(opened.read, HEAD_BYTES)
        kind = await inspect_head(head, mapping, name=name, options=said)
        if kind is FileKind.XLSX and len(head) == HEAD_BYTES and opened.seekable():
            await local(opened).look(name=name, mapping=mapping, options=said)
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
    if not job.created:  # the key names a job of an earlier time, which may be of another project
        async with database.session() as session:
            found = await find_by_ingestion(session, job.id) or found
    return HandedIn(job, found.id, found.name)


async def _pieces(head: bytes, file: IO[bytes]) -> AsyncIterator[bytes]:
    yield head
    while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
        yield piece
