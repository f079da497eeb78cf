"""A file's bytes as they stream by, without the gzip around them: what kind of bytes they are is told on the way."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace

from workers.ingestion.gunzip import gunzip
from workers.ingestion.kinds import Container, container
from workers.ingestion.refusals import Unreadable

# What a door and a run look at to tell what kind of file it is and how it is cut.
HEAD_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """``head`` is the file's beginning; ``pieces`` are all its bytes, those of the head included."""

    kind: Container
    head: bytes
    pieces: AsyncIterator[bytes]
    gzipped: bool = False


async def unwrap(pieces: AsyncIterator[bytes], *, whole: bool = True) -> Unwrapped:
    """Return the file that ``pieces`` are, out of its gzip; raise Unreadable for what holds no rows.

    Pieces that are not the ``whole`` file may end anywhere.
    """
    found = await _looked_at(pieces)
    if found.kind != "gzip":
        return found
    inner = await _looked_at(gunzip(found.pieces, whole=whole))
    if inner.kind == "gzip":
        raise Unreadable("this is gzip inside of gzip: unpack it once")
    return replace(inner, gzipped=True)


async def _looked_at(pieces: AsyncIterator[bytes]) -> Unwrapped:
    head = bytearray()
    while len(head) < HEAD_BYTES and (piece := await anext(pieces, None)) is not None:
        head += piece
    seen = bytes(head)
    return Unwrapped(container(seen), seen[:HEAD_BYTES], _again(seen, pieces))


async def _again(head: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    if head:
        yield head
    async for piece in rest:
        yield piece
