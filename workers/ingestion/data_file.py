"""A file as it streams out of its store: bytes to text to records to chunks, one chunk at a time.

What costs processor time runs in a thread: the loop stays free, and Postgres works on the chunk before. A workbook is
read by a process of its own.
"""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from typing import IO, Any, Self

from workers.ingestion import workbook
from workers.ingestion.chunks import Chunk, Ids, Maker
from workers.ingestion.encodings import UTF8, Detector, decoder
from workers.ingestion.json_records import JsonItems, arrays_behind, goes_on
from workers.ingestion.kinds import Kind, require_text, text_kind
from workers.ingestion.mapping import Places, locate
from workers.ingestion.options import Options
from workers.ingestion.refusals import Unreadable
from workers.ingestion.tables import AnyRecord, Reader, Table, read_table, refuse_options
from workers.ingestion.tally import Note
from workers.ingestion.unwrapping import HEAD_BYTES, Unwrapped, unwrap
from workers.runtime.handler.confined import ConfinedProcessFailed, confined

# Decoded strictly once already: a U+FFFD in it was one before.
_EXACT = {UTF8}
_MARK = "\ufeff"
# What DOS ends a file with, and what pads it to its last block.
_END_OF_FILE, _PADDING = "\x1a", "\x1a\x00\r\n"
_LONGEST_PADDING = 64 * 1024


class DataFile:
    """One file, read once. ``encoding`` is what a look at all of it has told; None where nobody has looked.

    ``said`` are the options. Of pieces that are not the ``whole`` file only the beginning can be told. ``bytes_read``
    is how much of it has come out of the store.
    """

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        *,
        name: str,
        encoding: str | None = None,
        said: Mapping[str, Any] | None = None,
        whole: bool = True,
    ) -> None:
        self.bytes_read = 0
        self.encoding = encoding
        self.is_gzipped = False
        self.table: Table
        self.places: Places
        self._source = pieces
        self._complete = whole
        self._name = name
        self._said = said or {}
        self._options = Options.of(self._said)
        self._text: AsyncIterator[str]
        self._records: Iterator[AnyRecord] = iter(())
        self._ended = self._end_noted = False
        self._reader: Reader
        self._maker: Maker
        self._open = AsyncExitStack()

    @property
    def was_told_how(self) -> bool:
        """Whether somebody said how it is to be read."""
        return bool(self._said)

    @property
    def encoding_was_given(self) -> bool:
        return self._options.encoding is not None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._open.aclose()

    async def open(
        self, mapping: Mapping[str, str], *, type_: str, ids: Ids, skip: int = 0, runaways: int = 0
    ) -> Places:
        """Read the header and go to the record behind row ``skip``; raise Unreadable."""
        unwrapped = await unwrap(self._counted(), whole=self._complete)
        self.is_gzipped = unwrapped.gzipped
        self._text = self._of_workbook(unwrapped) if unwrapped.kind == "zip" else self._decoded(unwrapped)
        head, whole = await self._head()
        if not head and whole:
            raise Unreadable("the file is empty: it has no header")
        kind = Kind.XLSX if unwrapped.kind == "zip" else text_kind(head, name=self._name)
        refuse_options(self._said, kind)
        self.table = await asyncio.to_thread(read_table, head, kind=kind, whole=whole, options=self._options)
        self.places = locate(mapping, self.table.columns, sample=self.table.sample)
        self._maker = Maker(self.table.columns, self.places, type_=type_, ids=ids)
        lossy = kind is not Kind.XLSX and self.encoding not in _EXACT
        self._reader = self.table.reader(skip=skip, runaways=runaways, lossy=lossy)
        self._ended = whole or not self._complete
        self._records = self._reader.feed(head[self.table.at :], final=whole)
        return self.places

    async def next_chunk(self) -> Chunk | None:
        """Return the next chunk, None when there is no more record."""
        chunk = Chunk()
        while not await asyncio.to_thread(self._maker.fill, chunk, self._reader, self._records):
            if self._ended:
                self._note_end(chunk)
                break
            text = await anext(self._text, None)
            self._ended = text is None
            self._records = self._reader.feed(text or "", final=self._ended)
        if not chunk.records and not chunk.notes:
            return None
        chunk.line, chunk.runaways, chunk.replaced = self._reader.line, self._reader.runaways, self._reader.replaced
        await asyncio.to_thread(chunk.close)
        return chunk

    def _note_end(self, chunk: Chunk) -> None:
        """Note what only the end of a file tells, once."""
        reader, begin = self._reader, self.table.begin
        if self._end_noted or not isinstance(reader, JsonItems) or begin is None or not begin.is_array:
            return
        self._end_noted = True
        if reader.cut_short:
            chunk.note(Note.CUT_SHORT, reader.line)
        if begin.within is not None and arrays_behind(reader.tail):
            chunk.note(Note.OTHER_ARRAYS, reader.line)
        if goes_on(reader.tail, within=begin.within is not None):
            chunk.note(Note.MORE_BEHIND, reader.line)

    async def _counted(self) -> AsyncGenerator[bytes, None]:
        async for piece in self._source:
            self.bytes_read += len(piece)
            yield piece

    async def _head(self) -> tuple[str, bool]:
        """Return the beginning of the text, and whether that is all of it."""
        head = ""
        while len(head) < HEAD_BYTES:
            text = await anext(self._text, None)
            if text is None:
                return head, self._complete
            head += text
        return head, False

    # ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _decoded(self, unwrapped: Unwrapped) -> AsyncGenerator[str, None]:
        self.encoding = self._options.encoding or self.encoding or _told_by(unwrapped.head)
        require_text(unwrapped.head, self.encoding)
        decode = decoder(self.encoding).decode
        held, first = "", True
        async for piece in unwrapped.pieces:
            text = held + await asyncio.to_thread(decode, piece)
            if first and text:
                text, first = text.removeprefix(_MARK), False
            text, held = _without_padding(text)
            if text:
                yield text
        if text := _without_padding(held + decode(b"", final=self._complete))[0]:
            yield text

    async def _of_workbook(self, unwrapped: Unwrapped) -> AsyncGenerator[str, None]:
        """Yield the rows of a workbook as the confined process writes them."""
        self.encoding = UTF8
        file = self._open.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - it is one's
        await _spool(unwrapped.pieces, file)
        bounds = {"memory_bytes": workbook.MEMORY_BYTES, "processor_seconds": workbook.PROCESSOR_SECONDS}
        decode = decoder(UTF8).decode
        process = await self._open.enter_async_context(confined(workbook.__name__, stdin=file, **bounds))
        try:
            async for piece in process.pieces():
                if text := decode(piece):
                    yield text
        except ConfinedProcessFailed:
            raise Unreadable(workbook.EXCEEDED) from None


async def _spool(pieces: AsyncIterator[bytes], file: IO[bytes]) -> None:
    """Write a workbook to the disk, where it can be read from its end as zips are."""
    size = 0
    async for piece in pieces:
        size += len(piece)
        if size > workbook.MOST_FILE_BYTES:
            raise Unreadable(f"a workbook must have at most {workbook.MOST_FILE_BYTES // 1024**2} MiB: save it as CSV")
        await asyncio.to_thread(file.write, piece)
    await asyncio.to_thread(file.flush)


def _told_by(head: bytes) -> str:
    detector = Detector()
    detector.feed(head)
    return detector.so_far()


def _without_padding(text: str) -> tuple[str, str]:
    """Return ``text`` without a DOS end of file at its end, and that apart: it counts where more text follows."""
    if _END_OF_FILE not in text[-_LONGEST_PADDING:]:
        return text, ""
    stripped = text.rstrip(_PADDING)
    place = text.find(_END_OF_FILE, len(stripped))
    if place < 0 or len(text) - place > _LONGEST_PADDING:
        return text, ""
    return text[:place], text[place:]
