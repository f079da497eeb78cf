"""The store of uploaded files, which every worker can read. The default store is Postgres itself.

Another store needs only the three methods of ``Uploads``. docs/decisions/0005-uploads-in-postgres.md says why parts in
a table are the default.
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
MAX_FILE_NAME_CHARS = 500

OpenSession = Callable[[], AbstractAsyncContextManager[AsyncSession]]


@dataclass(frozen=True, slots=True)
class StoredUpload:
    """A stored file, and what was measured while it was stored. ``lines`` counts line feeds.

    ``encoding`` is None for a gzip or a zip.
    """

    id: UUID
    size: int
    sha256: bytes
    encoding: str | None
    lines: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of a file whose bytes were all seen. ``encoding`` is None for a gzip or a zip."""

    size: int
    sha256: bytes
    encoding: str | None
    lines: int


class Measuring:
    """Measures a file part by part."""

    def __init__(self) -> None:
        self._digest, self._detector = hashlib.sha256(), Detector()
        self._size = self._lines = 0
        self._is_packed = False

    def feed(self, part: bytes) -> None:
        """Measure the next part. The first one must have the beginning by which a packed file is known."""
        self._is_packed = self._is_packed or (self._size == 0 and is_packed(part))
        self._digest.update(part)
        if not self._is_packed:
            self._detector.feed(part)
        self._size, self._lines = self._size + len(part), self._lines + part.count(b"\n")

    def finish(self) -> Measured:
        """Return what was measured."""
        encoding = None if self._is_packed else self._detector.finish()
        return Measured(self._size, self._digest.digest(), encoding, self._lines)


class Uploads(Protocol):
    """A store of files that wait for their job."""

    async def put(
        self, session: AsyncSession, *, project_id: UUID, file_name: str, stream: AsyncIterable[bytes]
    ) -> StoredUpload:
        """Store ``stream``, which is read once and never held as a whole. The file exists once ``session`` commits."""
        ...

    def read(self, upload_id: UUID) -> AsyncGenerator[bytes, None]:
        """Yield a file in pieces of at most ``PART_BYTES``. No transaction is open between two pieces."""
        ...

    async def discard(self, session: AsyncSession, upload_id: UUID) -> None:
        """Delete the content when ``session`` commits."""
        ...


class PostgresUploads:
    """Files in ``operations.uploads``, with their bytes in parts of 1 MiB in ``operations.upload_parts``.

    ``open_session`` opens the short transactions of :meth:`read`.
    """

    def __init__(self, open_session: OpenSession | None = None) -> None:
        self._open_session = open_session

    async def put(
        self, session: AsyncSession, *, project_id: UUID, file_name: str, stream: AsyncIterable[bytes]
    ) -> StoredUpload:
        """Store ``stream``. After its last byte, the file's row gets size, digest, encoding and line count."""
        name = file_name[-MAX_FILE_NAME_CHARS:]
        new = insert(Upload).values(project_id=project_id, file_name=name, size_bytes=0, sha256=b"")
        upload_id = (await session.execute(new.returning(Upload.id))).scalar_one()
        measuring, number = Measuring(), 0
        async for part in cut_into_parts(stream):
            measuring.feed(part)
            await session.execute(insert(UploadPart).values(upload_id=upload_id, part_number=number, content=part))
            number += 1
        found = measuring.finish()
        await session.execute(update(Upload).where(Upload.id == upload_id).values(**_columns(found)))
        return StoredUpload(upload_id, found.size, found.sha256, found.encoding, found.lines)

    async def read(self, upload_id: UUID) -> AsyncGenerator[bytes, None]:
        """Yield the parts in order. A larger part, which another door may have written, comes in several pieces."""
        assert self._open_session is not None, "this store was made without open_session"
        async with self._open_session() as session:
            expected = await _expected_digest(session, upload_id)
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
        """Delete the parts. The file's row stays, as a record of what was ingested."""
        await session.execute(delete(UploadPart).where(UploadPart.upload_id == upload_id))


async def put_measured(
    session: AsyncSession, measured: Measured, *, project_id: UUID, file_name: str, stream: AsyncIterable[bytes]
) -> UUID:
    """Store a file that was measured before, as a service must: it says the size before it writes a part.

    Return its id. The file exists once ``session`` commits.
    """
    new = insert(Upload).values(project_id=project_id, file_name=file_name[-MAX_FILE_NAME_CHARS:], **_columns(measured))
    upload_id: UUID = (await session.execute(new.returning(Upload.id))).scalar_one()
    number = 0
    async for part in cut_into_parts(stream):
        await session.execute(insert(UploadPart).values(upload_id=upload_id, part_number=number, content=part))
        number += 1
    return upload_id


def _columns(measured: Measured) -> dict[str, Any]:
    return {
        "size_bytes": measured.size,
        "sha256": measured.sha256,
        "encoding": measured.encoding,
        "line_count": measured.lines,
    }


async def _expected_digest(session: AsyncSession, upload_id: UUID) -> bytes | None:
    """Return the digest that the parts must have; None if the file does not exist (any more).

    Raises Unreadable if a part is missing, or if the size differs from the row (a row written in SQL may be wrong).
    """
    found = (await session.execute(_SIZES, {"id": upload_id})).one_or_none()
    if found is None:
        return None
    size_in_row, sha256, parts, last, size = found
    if parts != last + 1:
        raise Unreadable(f"the upload must have its parts numbered from 0 on, got {parts} up to number {last}")
    if parts and size != size_in_row:
        raise Unreadable(f"the upload must have {size_in_row:,} bytes (its sizeBytes), got {size:,} in its parts")
    return bytes(sha256) if parts else None


_SIZES = text("""
    SELECT u."sizeBytes", u.sha256, count(p."partNumber"), coalesce(max(p."partNumber"), -1),
           coalesce(sum(octet_length(p.content)), 0)
      FROM operations.uploads AS u LEFT JOIN operations.upload_parts AS p ON p."uploadId" = u.id
     WHERE u.id = :id GROUP BY u.id""")


async def _piece(session: AsyncSession, upload_id: UUID, number: int, offset: int) -> bytes | None:
    """Return the next bytes of the part, no bytes after its end; None if there is no such part."""
    raw = await driver_connection(session)
    # In binary, because text has two characters per byte. The column is uncompressed, so only this piece is read.
    cursor = await raw.cursor(binary=True).execute(
        "SELECT substring(content FROM %s FOR %s) FROM operations.upload_parts"
        ' WHERE "uploadId" = %s AND "partNumber" = %s',
        (offset + 1, PART_BYTES, upload_id, number),
    )
    found = await cursor.fetchone()
    return None if found is None else bytes(found[0])


async def driver_connection(session: AsyncSession) -> psycopg.AsyncConnection[Any]:
    """Return the psycopg connection of ``session``, in its transaction."""
    connection = await session.connection()
    return cast("psycopg.AsyncConnection[Any]", (await connection.get_raw_connection()).driver_connection)


async def cut_into_parts(stream: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Yield ``stream`` in parts of ``PART_BYTES``; the last part may be shorter."""
    rest = bytearray()
    async for piece in stream:
        rest += piece
        while len(rest) >= PART_BYTES:
            yield bytes(rest[:PART_BYTES])
            del rest[:PART_BYTES]
    if rest:
        yield bytes(rest)
