"""Unpack a stream of gzip in bounded memory, and stop if it expands more than a real table would."""

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterator

from workers.ingestion.refusals import Unreadable

MAX_GUNZIP_PIECE_BYTES = 1024 * 1024
# Logs and tables expand to 5 to 50 times their size; gzip can expand to a thousand times.
MAX_GZIP_RATIO = 200
# Below this size the ratio is not checked.
MIN_RATIO_BYTES = 64 * 1024 * 1024
# Whatever the ratio is.
MAX_GZIP_BYTES = 32 * 1024**3
_GZIP = zlib.MAX_WBITS | 16
_MAGIC = b"\x1f\x8b"


async def gunzip(pieces: AsyncIterator[bytes], *, whole: bool = True) -> AsyncGenerator[bytes, None]:
    """Yield the unpacked bytes in pieces of at most 1 MiB; raise Unreadable.

    Several gzip members are one file. Padding after the last member is ignored. If ``pieces`` are not the ``whole``
    file, they may end anywhere.
    """
    unpacker = _Unpacker()
    async for piece in pieces:
        unpacker.take(piece)
        while unpacked := await asyncio.to_thread(unpacker.next_piece):
            yield unpacked
    if whole:
        unpacker.finish()


class _Unpacker:
    """Takes packed bytes and returns the unpacked bytes, a piece at a time."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(_GZIP)
        self._waiting = b""
        self._packed_bytes = self._unpacked_bytes = 0
        self._begun = False
        self._padding = False

    def take(self, piece: bytes) -> None:
        self._packed_bytes += len(piece)
        self._waiting += piece

    def next_piece(self) -> bytes:
        """Return the next bytes; no bytes if more must be taken first."""
        while self._waiting and not self._padding:
            if self._inflater.eof and not self._next_member():
                break
            try:
                unpacked = self._inflater.decompress(self._waiting, MAX_GUNZIP_PIECE_BYTES)
            except zlib.error:
                raise Unreadable("the gzip file is damaged: pack it again") from None
            self._begun = True
            self._waiting = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
            if unpacked:
                self._check_size(len(unpacked))
                return unpacked
        return b""

    def finish(self) -> None:
        if self._begun and not self._inflater.eof:
            raise Unreadable("the gzip file is cut short: its end is missing")

    def _next_member(self) -> bool:
        if len(self._waiting) < len(_MAGIC):
            return False  # more bytes come, or it is padding
        if not self._waiting.startswith(_MAGIC):
            self._padding = True
            return False
        self._inflater = zlib.decompressobj(_GZIP)
        return True

    def _check_size(self, count: int) -> None:
        self._unpacked_bytes += count
        if self._unpacked_bytes <= MIN_RATIO_BYTES:
            return
        if self._unpacked_bytes > MAX_GZIP_RATIO * self._packed_bytes:
            raise Unreadable(f"the gzip file expands to more than {MAX_GZIP_RATIO} times its size, which no table "
                             "does: it is not read")  # fmt: skip
        if self._unpacked_bytes > MAX_GZIP_BYTES:
            raise Unreadable(f"the gzip file expands to more than {MAX_GZIP_BYTES // 1024**3} GiB: hand it in in parts")
