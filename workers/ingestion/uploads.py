"""Files as they were handed in, where every worker can read them. The default store is Postgres itself.

What keeps them elsewhere has these three methods and nothing else to know; why parts in a table are the default is
told in docs/decisions/0005-uploads-in-postgres.md.
"""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, cast
from uuid import UUID

import psycopg
from sqlalchemy import delete, insert, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import Upload, UploadPart
from workers.ingestion.encodings import Detector
from workers.ingestion.kinds import is_packed
from workers.ingestion.refusals import Unreadable

PART_BYTES = 1024 * 1024
NAME_LENGTH = 500

OpenSession = Callable[[], AbstractAsyncContextManager[AsyncSession]]


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that was put, and what was seen of it on the way. ``lines`` counts line feeds.

    ``encoding`` is None for what is no text until it is unpacked.
    """

    id: UUID
    size: int
    sha256: bytes
    encoding: str | None
    lines: int


class Uploads(Protocol):
    """Where files wait for their job."""

    async def put(
        self, session: AsyncSession, *, project_id: UUID, file_name: str, stream: AsyncIterable[bytes]
    ) -> Stored:
        """Keep ``stream``, read once and never held whole; it is there when ``session`` commits, or not at all."""
        ...

    def read(self, upload_id: UUID) -> AsyncGenerator[bytes, None]:
        """Yield a file from its beginning, in pieces of at most ``PART_BYTES``; no transaction is open between two."""
        ...

    async def discard(self, session: AsyncSession, upload_id: UUID) -> None:
        """Give up the content; it goes when ``session`` commits."""
        ...


class PostgresUploads:
    """Files in ``operations.uploads``, their bytes in parts of a mebibyte beside them.

    ``open_session`` gives the short transactions that :meth:`read` reads by.
    """

    def __init__(self, open_session: OpenSession | None = None) -> None:
        self._open_session = open_session

    async def put(
        self, session: AsyncSession, *, project_id: UUID, file_name: str, stream: AsyncIterable[bytes]
    ) -> Stored:
        """Keep ``stream``; the file's row gets what its last byte decides once that has been seen."""
        new = insert(Upload).values(project_id=project_id, file_name=file_name[-NAME_LENGTH:], size_bytes=0, sha256=b"")
        upload_id = (await session.execute(new.returning(Upload.id))).scalar_one()
        digest, detector, size, lines, number = hashlib.sha256(), Detector(), 0, 0, 0
        packed = False
        async for part in in_parts(stream):
            packed = packed or (number == 0 and is_packed(part))
            digest.update(part)
            if not packed:
                detector.feed(part)
            size, lines = size + len(part), lines + part.count(b"\n")
            await session.execute(insert(UploadPart).values(upload_id=upload_id, part_number=number, content=part))
            number += 1
        stored = Stored(upload_id, size, digest.digest(), None if packed else detector.finish(), lines)
        seen = {"size_bytes": size, "sha256": stored.sha256, "encoding": stored.encoding, "line_count": lines}
        await session.execute(update(Upload).where(Upload.id == upload_id).values(**seen))
        return stored

    async def read(self, upload_id: UUID) -> AsyncGenerator[bytes, None]:
        """Yield the parts in their order; a part that some other door made larger comes in several pieces."""
        assert self._open_session is not None, "made without sessions to read by"
        async with self._open_session() as session:
            expected = await _whole(session, upload_id)
        number, offset = 0, 0
        digest = hashlib.sha256()
        while True:
            async with self._open_session() as session:
                piece = await _piece(session, upload_id, number, offset)
            if piece is None:
                if expected is not None and digest.digest() != expected:
                    raise Unreadable("the upload's content must have the sha256 of its row, got another")
                return
            if piece:
                digest.update(piece)
                yield piece
            number, offset = (number, offset + len(piece)) if len(piece) == PART_BYTES else (number + 1, 0)

    async def discard(self, session: AsyncSession, upload_id: UUID) -> None:
        """Delete the parts; the file's row stays and tells what was ingested."""
        await session.execute(delete(UploadPart).where(UploadPart.upload_id == upload_id))


async def _whole(session: AsyncSession, upload_id: UUID) -> bytes | None:
    """Return the digest that the parts must have; raise Unreadable where a part is missing or their size is another.

    A file that came by SQL has what its author wrote. None: there is no such file (any more).
    """
    found = (await session.execute(_SIZES, {"id": upload_id})).one_or_none()
    if found is None:
        return None
    said, sha256, parts, last, size = found
    if parts != last + 1:
        raise Unreadable(f"the upload must have its parts numbered from 0 on, got {parts} up to number {last}")
    if parts and size != said:
        raise Unreadable(f"the upload must have {said:,} bytes, as its sizeBytes says, got {size:,} in its parts")
    return bytes(sha256) if parts else None


_SIZES = text("""
    SELECT u."sizeBytes", u.sha256, count(p."partNumber"), coalesce(max(p."partNumber"), -1),
           coalesce(sum(octet_length(p.content)), 0)
      FROM operations.uploads AS u LEFT JOIN operations.upload_parts AS p ON p."uploadId" = u.id
     WHERE u.id = :id GROUP BY u.id""")


async def _piece(session: AsyncSession, upload_id: UUID, number: int, offset: int) -> bytes | None:
    """Return the part's next bytes, none behind its end; None where there is no such part."""
    raw = await driver(session)
    # In binary: as text every byte would travel as two. Uncompressed storage fetches no more than this piece.
    cursor = await raw.cursor(binary=True).execute(
        "SELECT substring(content FROM %s FOR %s) FROM operations.upload_parts"
        ' WHERE "uploadId" = %s AND "partNumber" = %s',
        (offset + 1, PART_BYTES, upload_id, number),
    )
    found = await cursor.fetchone()
    return None if found is None else bytes(found[0])


async def driver(session: AsyncSession) -> psycopg.AsyncConnection[Any]:
    """Return the psycopg connection that ``session`` speaks through, in its transaction."""
    connection = await session.connection()
    return cast("psycopg.AsyncConnection[Any]", (await connection.get_raw_connection()).driver_connection)


async def in_parts(stream: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Yield ``stream`` again, cut into parts of ``PART_BYTES``, the last one shorter."""
    rest = bytearray()
    async for piece in stream:
        rest += piece
        while len(rest) >= PART_BYTES:
            yield bytes(rest[:PART_BYTES])
            del rest[:PART_BYTES]
    if rest:
        yield bytes(rest)
