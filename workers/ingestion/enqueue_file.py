"""Ingest a file from Python: the file and its job are committed together in the caller's transaction."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from models.lifecycle import PRIORITY_DEFAULT
from models.operations import Upload
from workers.ingestion.chunks import RecordIds
from workers.ingestion.data_file import DataFile
from workers.ingestion.ingest_csv import source_of_kind
from workers.ingestion.kinds import FileKind, container
from workers.ingestion.mapping import check_mapping
from workers.ingestion.options import ReadOptions
from workers.ingestion.refusals import Unreadable
from workers.ingestion.unwrapping import HEAD_BYTES
from workers.ingestion.uploads import MAX_FILE_NAME_CHARS, PostgresUploads, Uploads
from workers.runtime.actor import NOBODY, Actor, acting
from workers.runtime.enqueue import Enqueued, enqueue
from workers.runtime.handler import naming

_STORE: Uploads = PostgresUploads()


async def ingest_file(
    session: AsyncSession,
    *,
    project_id: UUID,
    type: Literal["TASK", "FEEDBACK"],  # noqa: A002 - the column's name, as at every other door
    stream: AsyncIterable[bytes],
    file_name: str,
    mapping: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    priority: int = PRIORITY_DEFAULT,
    idempotency_key: str | None = None,
    actor: Actor = NOBODY,
) -> Enqueued:
    """Store ``stream`` and enqueue its ingestion. Nothing happens before the caller commits.

    ``options`` may have ``encoding``, ``delimiter``, ``quote`` and ``skip_rows``. If the file is not a table, or has no
    header, no content column or lacks a column of ``mapping``, Unreadable is raised before anything is stored (for a
    large workbook, the job fails instead). If a key is repeated with the same file, mapping and options, the first job
    is returned and no second file is stored; with others, EnqueueError is raised.
    """
    mapping, given = dict(mapping or {}), dict(options or {})
    pieces = aiter(stream)
    head = await _head(pieces)
    kind = await inspect_head(head, mapping, name=file_name, options=given)
    name = naming.file_name(file_name, longest=MAX_FILE_NAME_CHARS, default="upload.csv")
    async with acting(session, actor):
        stored = await _STORE.put(session, project_id=project_id, file_name=name, stream=_with_head(head, pieces))
        payload = {
            "project_id": project_id,
            "type": type,
            "upload_id": stored.id,
            "content_hash": "\\x" + stored.sha256.hex(),
            "mapping": mapping,
            "options": given,
            "source": source_of_kind(name, kind),
        }
        job = await enqueue(session, "ingestion.ingest", payload, priority=priority, idempotency_key=idempotency_key)
        if not job.created:
            await session.execute(delete(Upload).where(Upload.id == stored.id))
    return job


async def _head(pieces: AsyncIterator[bytes]) -> bytes:
    """Read the beginning of the file; a short file is read whole."""
    head = bytearray()
    while len(head) < HEAD_BYTES and (piece := await anext(pieces, None)) is not None:
        head += piece
    return bytes(head)


async def inspect_head(head: bytes, mapping: Mapping[str, str], *, name: str, options: Mapping[str, Any]) -> FileKind:
    """Return the kind of the file that begins with ``head``. A ``head`` shorter than HEAD_BYTES is the whole file.

    Raises Unreadable if the beginning, the mapping or the options are not valid. A workbook is read only if ``head`` is
    the whole file.
    """
    try:
        check_mapping(mapping)
        ReadOptions.of(options)
    except ValueError as error:
        raise Unreadable(str(error)) from None
    whole = len(head) < HEAD_BYTES
    if not whole and container(head) == "zip":
        return FileKind.XLSX
    pieces = _as_stream(head if whole else head[:HEAD_BYTES])
    async with DataFile(pieces, name=name, options=options, whole=whole) as file:
        await file.open(mapping, type_="TASK", ids=RecordIds(UUID(int=0)))
        return file.table.kind


async def _as_stream(head: bytes) -> AsyncIterator[bytes]:
    yield head


async def _with_head(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for piece in rest:
        yield piece
