"""Unpack a stream of a file's bytes if it is gzip, and detect its container."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace

from workers.ingestion.gunzip import gunzip
from workers.ingestion.kinds import Container, container
from workers.ingestion.refusals import Unreadable

# The bytes from which a door and a run detect the kind, the columns and the dialect of a file.
HEAD_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """An unpacked file. ``head`` is its beginning; ``pieces`` are all its bytes, including the head."""

    kind: Container
    head: bytes
    pieces: AsyncIterator[bytes]
    gzipped: bool = False


async def unwrap(pieces: AsyncIterator[bytes], *, whole: bool = True) -> Unwrapped:
    """Return the file in ``pieces``, unpacked if it is gzip; raise Unreadable if it has no rows.

    If ``pieces`` are not the ``whole`` file, they may end anywhere.
    """
    found = await _detect(pieces)
    if found.kind != "gzip":
        return found
    inner = await _detect(gunzip(found.pieces, whole=whole))
    if inner.kind == "gzip":
        raise Unreadable("this is gzip inside gzip: unpack it once")
    return replace(inner, gzipped=True)


async def _detect(pieces: AsyncIterator[bytes]) -> Unwrapped:
    head = bytearray()
    while len(head) < HEAD_BYTES and (piece := await anext(pieces, None)) is not None:
        head += piece
    first = bytes(head)
    return Unwrapped(container(first), first[:HEAD_BYTES], _prepend(first, pieces))


async def _prepend(head: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    if head:
        yield head
    async for piece in rest:
        yield piece
