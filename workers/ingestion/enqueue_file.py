"""The Python door: a file and its job, committed together in the caller's transaction."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from models.lifecycle import PRIORITY_DEFAULT
from models.operations import Upload
from workers.ingestion.chunks import Ids
from workers.ingestion.data_file import DataFile
from workers.ingestion.ingest_csv import of_kind
from workers.ingestion.kinds import Kind, container
from workers.ingestion.mapping import check
from workers.ingestion.options import Options
from workers.ingestion.refusals import Unreadable
from workers.ingestion.unwrapping import HEAD_BYTES
from workers.ingestion.uploads import NAME_LENGTH, PostgresUploads, Uploads
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
    """Keep ``stream`` and enqueue its ingestion; nothing happens before the caller commits.

    ``options`` say how the file is to be read: ``encoding``, ``delimiter``, ``quote``, ``skip_rows``. Raises
    Unreadable, before anything is kept, when the file is no table, has no header, no content column or not the columns
    of ``mapping``, and EnqueueError. Of a workbook the worker tells that. A repeated key with the same file,
    mapping and options returns the first job and keeps no second file; with others it is refused.
    """
    mapping, said = dict(mapping or {}), dict(options or {})
    pieces = aiter(stream)
    head = await _head(pieces)
    kind = await look(head, mapping, name=file_name, options=said)
    name = naming.file_name(file_name, longest=NAME_LENGTH, default="upload.csv")
    async with acting(session, actor):
        stored = await _STORE.put(session, project_id=project_id, file_name=name, stream=_again(head, pieces))
        payload = {
            "project_id": project_id,
            "type": type,
            "upload_id": stored.id,
            "content_hash": "\\x" + stored.sha256.hex(),
            "mapping": mapping,
            "options": said,
            "source": of_kind(name, kind),
        }
        job = await enqueue(session, "ingestion.ingest", payload, priority=priority, idempotency_key=idempotency_key)
        if not job.created:
            await session.execute(delete(Upload).where(Upload.id == stored.id))
    return job


async def _head(pieces: AsyncIterator[bytes]) -> bytes:
    """Take what is looked at before anything is kept: the file's beginning, all of a short file."""
    head = bytearray()
    while len(head) < HEAD_BYTES and (piece := await anext(pieces, None)) is not None:
        head += piece
    return bytes(head)


async def look(head: bytes, mapping: Mapping[str, str], *, name: str, options: Mapping[str, Any]) -> Kind:
    """Return the kind of the file that begins with ``head``, which is all of a short file.

    Raises Unreadable for what its beginning, its mapping and its options can be refused for, before anything is made.
    A workbook is looked at only where it is whole.
    """
    try:
        check(mapping)
        Options.of(options)
    except ValueError as error:
        raise Unreadable(str(error)) from None
    whole = len(head) < HEAD_BYTES
    if not whole and container(head) == "zip":
        return Kind.XLSX
    async with DataFile(_one(head if whole else head[:HEAD_BYTES]), name=name, said=options, whole=whole) as file:
        await file.open(mapping, type_="TASK", ids=Ids(UUID(int=0)))
        return file.table.kind


async def _one(head: bytes) -> AsyncIterator[bytes]:
    yield head


async def _again(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for piece in rest:
        yield piece
