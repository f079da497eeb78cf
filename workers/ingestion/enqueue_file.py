"""The Python door: a file and its job, committed together in the caller's transaction."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Literal
from uuid import UUID

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from models.lifecycle import PRIORITY_DEFAULT
from models.operations import Upload
from workers.ingestion.encodings import Detector, decoder
from workers.ingestion.ingest_csv import CSV
from workers.ingestion.layout import HEAD_BYTES, read_layout
from workers.ingestion.mapping import check, locate
from workers.ingestion.refusals import Unreadable
from workers.ingestion.uploads import NAME_LENGTH, PostgresUploads, Uploads
from workers.runtime.enqueue import Enqueued, enqueue

_STORE: Uploads = PostgresUploads()


async def ingest_file(
    session: AsyncSession,
    *,
    project_id: UUID,
    type: Literal["TASK", "FEEDBACK"],  # noqa: A002 - the column's name, as at every other door
    stream: AsyncIterable[bytes],
    file_name: str,
    mapping: Mapping[str, str] | None = None,
    priority: int = PRIORITY_DEFAULT,
    idempotency_key: str | None = None,
) -> Enqueued:
    """Keep ``stream`` and enqueue its ingestion; nothing happens before the caller commits.

    Raises Unreadable, before anything is kept, when the file has no header, no content column or not the columns of
    ``mapping``, and EnqueueError. A repeated key with the same file and mapping returns the first job and
    keeps no second file; with others it is refused.
    """
    mapping = dict(mapping or {})
    pieces = aiter(stream)
    head = await _head(pieces)
    look(head, mapping)
    name = file_name.replace("\x00", "")[-NAME_LENGTH:]
    stored = await _STORE.put(session, project_id=project_id, file_name=name, stream=_again(head, pieces))
    payload = {
        "project_id": project_id,
        "type": type,
        "upload_id": stored.id,
        "content_hash": "\\x" + stored.sha256.hex(),
        "mapping": mapping,
        "source": CSV + name,
    }
    options = {"priority": priority, "idempotency_key": idempotency_key}
    job = await enqueue(session, "ingestion.ingest", payload, **options)
    if not job.created:
        await session.execute(delete(Upload).where(Upload.id == stored.id))
    return job


async def _head(pieces: AsyncIterator[bytes]) -> bytes:
    """Take what is looked at before anything is kept: the file's beginning, all of a short file."""
    head = bytearray()
    while len(head) < HEAD_BYTES and (piece := await anext(pieces, None)) is not None:
        head += piece
    return bytes(head)


def look(head: bytes, mapping: Mapping[str, str]) -> None:
    """Raise Unreadable for what a file's beginning and its mapping can be refused for: before anything is made."""
    try:
        check(mapping)
    except ValueError as error:
        raise Unreadable(str(error)) from None
    detector = Detector()
    detector.feed(head[:HEAD_BYTES])
    text = decoder(detector.so_far()).decode(head[:HEAD_BYTES])
    locate(mapping, read_layout(text, whole=len(head) < HEAD_BYTES).columns)


async def _again(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for piece in rest:
        yield piece
