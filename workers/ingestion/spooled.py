"""Ingest a file that lies on this machine's disk: measure it, then store it and enqueue its job.

The file is read twice. So no transaction is open while it arrives, and a service, which must say the size of a file
before it writes the first part, can store it too.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Literal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from workers.ingestion.enqueue_file import inspect_head
from workers.ingestion.ingest_csv import source_of_kind
from workers.ingestion.kinds import FileKind
from workers.ingestion.options import clean_options
from workers.ingestion.refusals import naming_file
from workers.ingestion.unwrapping import HEAD_BYTES
from workers.ingestion.uploads import MAX_FILE_NAME_CHARS, PART_BYTES, Measured, Measuring, put_measured
from workers.runtime.actor import NOBODY, Actor, acting
from workers.runtime.enqueue import Enqueued, enqueue
from workers.runtime.handler import naming

STAGE = "ingestion.ingest"


@dataclass(frozen=True, slots=True)
class SpooledFile:
    """A file that was measured and looks like a table, and how it is to be read."""

    file: IO[bytes]
    name: str
    kind: FileKind
    measured: Measured
    mapping: Mapping[str, str]
    options: Mapping[str, Any]


async def examine(
    file: IO[bytes],
    *,
    name: str,
    mapping: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> SpooledFile:
    """Measure a file and look at its beginning; raise Unreadable or InvalidOption as the job would.

    Reading runs in threads. A beginning that is packed is unpacked within the bounds of the handler.
    """
    mapping, given = dict(mapping or {}), clean_options(dict(options or {}))
    name = naming.file_name(name, longest=MAX_FILE_NAME_CHARS, default="upload.csv")
    await asyncio.to_thread(file.seek, 0)
    head = await asyncio.to_thread(file.read, HEAD_BYTES)
    with naming_file(name):
        kind = await inspect_head(head, mapping, name=name, options=given)
    measuring = Measuring()
    async for part in _parts(file):
        await asyncio.to_thread(measuring.feed, part)
    return SpooledFile(file, name, kind, measuring.finish(), mapping, given)


async def ingest_spooled(
    session: AsyncSession,
    spooled: SpooledFile,
    *,
    project_id: UUID,
    type: Literal["TASK", "FEEDBACK"],  # noqa: A002 - the column's name, as at every other door
    actor: Actor = NOBODY,
    **options: Any,
) -> Enqueued:
    """Store the file and enqueue its ingestion; ``options`` are those of :func:`workers.runtime.enqueue.enqueue`.

    If a key is repeated with the same file, mapping and options, the first job is returned and no second file is
    stored; with others, EnqueueError is raised.
    """
    async with acting(session, actor), session.begin_nested() as point:
        upload_id = await put_measured(
            session,
            spooled.measured,
            project_id=project_id,
            file_name=spooled.name,
            stream=_parts(spooled.file),
        )
        payload = {
            "project_id": project_id,
            "type": type,
            "upload_id": upload_id,
            "content_hash": "\\x" + spooled.measured.sha256.hex(),
            "mapping": dict(spooled.mapping),
            "options": dict(spooled.options),
            "source": source_of_kind(spooled.name, spooled.kind),
        }
        job = await enqueue(session, STAGE, payload, **options)
        if not job.created:
            await point.rollback()
    return job


async def _parts(file: IO[bytes]) -> AsyncIterator[bytes]:
    await asyncio.to_thread(file.seek, 0)
    while part := await asyncio.to_thread(file.read, PART_BYTES):
        yield part
