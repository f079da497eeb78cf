"""Read a stored file as a stream: bytes to text to records to chunks, one chunk at a time.

Work that costs processor time runs in a thread, so that the event loop stays free while Postgres saves the chunk
before. A process of its own reads workbooks.
"""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from typing import IO, Any, Self

from workers.ingestion import workbook
from workers.ingestion.chunks import Chunk, ChunkBuilder, RecordIds
from workers.ingestion.encodings import UTF8, Detector, decoder
from workers.ingestion.json_records import JsonItems, arrays_after, has_text_after
from workers.ingestion.kinds import FileKind, require_text, text_kind
from workers.ingestion.mapping import Places, locate
from workers.ingestion.options import ReadOptions
from workers.ingestion.record_counts import RowNote
from workers.ingestion.refusals import Unreadable
from workers.ingestion.tables import AnyRecord, Reader, Table, read_table, refuse_options
from workers.ingestion.unwrapping import HEAD_BYTES, Unwrapped, unwrap
from workers.runtime.handler.confined import ConfinedProcessFailed, confined

# Without damage: every U+FFFD in the text was in the file.
_EXACT = {UTF8}
_BYTE_ORDER_MARK = "\ufeff"
# The end-of-file character of DOS, and the characters that pad the last block after it.
_END_OF_FILE, _PADDING = "\x1a", "\x1a\x00\r\n"
_MAX_PADDING = 64 * 1024


class DataFile:
    """One file, read once.

    ``encoding`` is the encoding that was detected from the whole file, None if that was not done. ``options`` are those
    that a person gave. If ``pieces`` are not the ``whole`` file, only its beginning can be read. ``bytes_read`` counts
    the bytes that the store has returned.
    """

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        *,
        name: str,
        encoding: str | None = None,
        options: Mapping[str, Any] | None = None,
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
        self._given_options = options or {}
        self._options = ReadOptions.of(self._given_options)
        self._text: AsyncIterator[str]
        self._records: Iterator[AnyRecord] = iter(())
        self._ended = self._end_noted = self._has_records = False
        self._reader: Reader
        self._maker: ChunkBuilder
        self._open = AsyncExitStack()

    @property
    def has_options(self) -> bool:
        """Whether a person gave options for reading it."""
        return bool(self._given_options)

    @property
    def encoding_was_given(self) -> bool:
        return self._options.encoding is not None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._open.aclose()

    async def open(
        self, mapping: Mapping[str, str], *, type_: str, ids: RecordIds, skip: int = 0, runaways: int = 0
    ) -> Places:
        """Read the header and go to the first record after row ``skip``; raise Unreadable."""
        self._has_records = skip > 0  # an earlier run has read some
        unwrapped = await unwrap(self._counted(), whole=self._complete)
        self.is_gzipped = unwrapped.gzipped
        self._text = self._of_workbook(unwrapped) if unwrapped.kind == "zip" else self._decoded(unwrapped)
        head, whole = await self._head()
        if not head and whole:
            raise Unreadable("the file is empty: it has no header")
        kind = FileKind.XLSX if unwrapped.kind == "zip" else text_kind(head, name=self._name)
        refuse_options(self._given_options, kind)
        self.table = await asyncio.to_thread(read_table, head, kind=kind, whole=whole, options=self._options)
        self.places = locate(mapping, self.table.columns, sample=self.table.sample)
        self._maker = ChunkBuilder(self.table.columns, self.places, type_=type_, ids=ids)
        lossy = kind is not FileKind.XLSX and self.encoding not in _EXACT
        self._reader = self.table.reader(skip=skip, runaways=runaways, lossy=lossy)
        self._ended = whole or not self._complete
        self._records = self._reader.feed(head[self.table.at :], final=whole)
        return self.places

    async def next_chunk(self) -> Chunk | None:
        """Return the next chunk; None if no record is left."""
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
        self._has_records = True
        chunk.line, chunk.runaways, chunk.replaced = self._reader.line, self._reader.runaways, self._reader.replaced
        await asyncio.to_thread(chunk.close)
        return chunk

    def _note_end(self, chunk: Chunk) -> None:
        """Add the warnings that only the end of a file shows, once."""
        reader, begin = self._reader, self.table.begin
        if self._end_noted:
            return
        self._end_noted = True
        if not self._has_records and not chunk.records:
            chunk.note(RowNote.NO_RECORDS, reader.line)
        if not isinstance(reader, JsonItems) or begin is None or not begin.is_array:
            return
        if reader.cut_short:
            chunk.note(RowNote.CUT_SHORT, reader.line)
        if begin.within is not None and arrays_after(reader.tail):
            chunk.note(RowNote.OTHER_ARRAYS, reader.line)
        if has_text_after(reader.tail, within=begin.within is not None):
            chunk.note(RowNote.MORE_BEHIND, reader.line)

    async def _counted(self) -> AsyncGenerator[bytes, None]:
        async for piece in self._source:
            self.bytes_read += len(piece)
            yield piece

    async def _head(self) -> tuple[str, bool]:
        """Return the beginning of the text, and whether it is the whole text."""
        head = ""
        while len(head) < HEAD_BYTES:
            text = await anext(self._text, None)
            if text is None:
                return head, self._complete
            head += text
        return head, False

    # ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _decoded(self, unwrapped: Unwrapped) -> AsyncGenerator[str, None]:
        self.encoding = self._options.encoding or self.encoding or _encoding_of_head(unwrapped.head)
        require_text(unwrapped.head, self.encoding)
        decode = decoder(self.encoding).decode
        held, first = "", True
        async for piece in unwrapped.pieces:
            text = held + await asyncio.to_thread(decode, piece)
            if first and text:
                text, first = text.removeprefix(_BYTE_ORDER_MARK), False
            text, held = _without_padding(text)
            if text:
                yield text
        if text := _without_padding(held + decode(b"", final=self._complete))[0]:
            yield text

    async def _of_workbook(self, unwrapped: Unwrapped) -> AsyncGenerator[str, None]:
        """Yield the lines that the confined process writes for the rows of a workbook."""
        self.encoding = UTF8
        file = self._open.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the exit stack closes it
        await _spool(unwrapped.pieces, file)
        bounds = {
            "memory_bytes": workbook.MAX_WORKBOOK_MEMORY_BYTES,
            "processor_seconds": workbook.MAX_WORKBOOK_PROCESSOR_SECONDS,
        }
        decode = decoder(UTF8).decode
        process = await self._open.enter_async_context(confined(workbook.__name__, stdin=file, **bounds))
        try:
            async for piece in process.pieces():
                if text := decode(piece):
                    yield text
        except ConfinedProcessFailed:
            raise Unreadable(workbook.WORKBOOK_EXCEEDED) from None


async def _spool(pieces: AsyncIterator[bytes], file: IO[bytes]) -> None:
    """Write a workbook to disk: a zip is read from its end."""
    size = 0
    async for piece in pieces:
        size += len(piece)
        if size > workbook.MAX_WORKBOOK_BYTES:
            limit = workbook.MAX_WORKBOOK_BYTES // 1024**2
            raise Unreadable(f"a workbook must have at most {limit} MiB: save it as CSV")
        await asyncio.to_thread(file.write, piece)
    await asyncio.to_thread(file.flush)


def _encoding_of_head(head: bytes) -> str:
    detector = Detector()
    detector.feed(head)
    return detector.so_far()


def _without_padding(text: str) -> tuple[str, str]:
    """Split the DOS end-of-file character and its padding off ``text``. If more text follows, they belong to it."""
    if _END_OF_FILE not in text[-_MAX_PADDING:]:
        return text, ""
    stripped = text.rstrip(_PADDING)
    place = text.find(_END_OF_FILE, len(stripped))
    if place < 0 or len(text) - place > _MAX_PADDING:
        return text, ""
    return text[:place], text[place:]
