"""Unfold gzip as it streams by, in bounded memory, and no further than any real table would unfold."""

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterator

from workers.ingestion.refusals import Unreadable

PIECE_BYTES = 1024 * 1024
# Logs and tables unfold to 5 to 50 times their size; deflate can do a thousand.
MOST_UNFOLDED = 200
# Below, the ratio is no matter.
ALWAYS_UNFOLDED = 64 * 1024 * 1024
# Whatever its ratio.
MOST_BYTES = 32 * 1024**3
_GZIP = zlib.MAX_WBITS | 16
_MAGIC = b"\x1f\x8b"


async def gunzip(pieces: AsyncIterator[bytes], *, whole: bool = True) -> AsyncGenerator[bytes, None]:
    """Yield what ``pieces`` unfold to, in pieces of a mebibyte at most; raise Unreadable.

    Several members are one file. Padding behind the last one is none of it. Pieces that are not the ``whole`` file may
    end anywhere.
    """
    unfolder = _Unfolder()
    async for piece in pieces:
        unfolder.take(piece)
        while unfolded := await asyncio.to_thread(unfolder.next_piece):
            yield unfolded
    if whole:
        unfolder.finish()


class _Unfolder:
    """Takes what is folded and hands out what it unfolds to, a piece at a time."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(_GZIP)
        self._waiting = b""
        self._folded = self._unfolded = 0
        self._begun = False
        self._padding = False

    def take(self, piece: bytes) -> None:
        self._folded += len(piece)
        self._waiting += piece

    def next_piece(self) -> bytes:
        """Return the next bytes; none where more must be taken first."""
        while self._waiting and not self._padding:
            if self._inflater.eof and not self._next_member():
                break
            try:
                unfolded = self._inflater.decompress(self._waiting, PIECE_BYTES)
            except zlib.error:
                raise Unreadable("the gzip file is damaged: pack it again") from None
            self._begun = True
            self._waiting = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
            if unfolded:
                self._bound(len(unfolded))
                return unfolded
        return b""

    def finish(self) -> None:
        if self._begun and not self._inflater.eof:
            raise Unreadable("the gzip file is cut short: its end is missing")

    def _next_member(self) -> bool:
        if len(self._waiting) < len(_MAGIC):
            return False  # the rest of it is to come, or padding
        if not self._waiting.startswith(_MAGIC):
            self._padding = True
            return False
        self._inflater = zlib.decompressobj(_GZIP)
        return True

    def _bound(self, count: int) -> None:
        self._unfolded += count
        if self._unfolded <= ALWAYS_UNFOLDED:
            return
        if self._unfolded > MOST_UNFOLDED * self._folded:
            raise Unreadable(f"the gzip file unfolds to more than {MOST_UNFOLDED} times its size, which no table does: "
                             "it is not read")  # fmt: skip
        if self._unfolded > MOST_BYTES:
            raise Unreadable(f"the gzip file unfolds to more than {MOST_BYTES // 1024**3} GiB: hand it in in parts")
