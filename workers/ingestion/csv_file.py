"""A CSV file as it streams out of its store: bytes to text to records to chunks, one chunk at a time.

What costs processor time runs in a thread: the loop stays free, and Postgres works on the chunk before.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping

from workers.ingestion.chunks import Chunk, Ids, Maker
from workers.ingestion.csv_records import CsvRecords, Record
from workers.ingestion.encodings import UTF8, decoder
from workers.ingestion.layout import read_layout
from workers.ingestion.mapping import Places, locate

# Decoded strictly once already: a U+FFFD in it was one before.
_EXACT = {UTF8}


class CsvFile:
    """One file of ``size`` bytes, read once; ``bytes_read`` is how much of it has come out of the store."""

    def __init__(self, pieces: AsyncIterator[bytes], *, size: int, encoding: str) -> None:
        self.bytes_read = 0
        self._pieces = pieces
        self._size = size
        self._exact = encoding in _EXACT
        self._decoder = decoder(encoding)
        self._text: Iterator[Record] = iter(())
        self._ended = False
        self._reader: CsvRecords
        self._maker: Maker

    async def open(self, mapping: Mapping[str, str], *, type_: str, ids: Ids, skip: int, runaways: int) -> Places:
        """Read the header and go to the record behind physical line ``skip``; raise Unreadable."""
        head = await self._next_text()
        layout = await asyncio.to_thread(read_layout, head, whole=self.bytes_read >= self._size)
        places = locate(mapping, layout.columns)
        self._maker = Maker(layout, places, type_=type_, ids=ids)
        self._reader = CsvRecords(
            layout.delimiter, skip=max(skip, layout.header_lines), runaways=runaways, lossy=not self._exact
        )
        self._text = self._reader.feed(head, final=self._ended)
        return places

    async def next_chunk(self) -> Chunk | None:
        """Return the next chunk, None when there is no more record."""
        chunk = Chunk()
        while not await asyncio.to_thread(self._maker.fill, chunk, self._reader, self._text):
            if self._ended:
                break
            text = await self._next_text()
            self._text = self._reader.feed(text, final=self._ended)
        if not chunk.records:
            return None
        chunk.line, chunk.runaways, chunk.replaced = self._reader.line, self._reader.runaways, self._reader.replaced
        await asyncio.to_thread(chunk.close)
        return chunk

    async def _next_text(self) -> str:
        piece = await anext(self._pieces, None)
        if piece is None:
            self._ended = True
            return self._decoder.decode(b"", final=True)
        self.bytes_read += len(piece)
        return await asyncio.to_thread(self._decoder.decode, piece)
