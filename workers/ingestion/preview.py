"""Read a file as its job would, but save nothing: how it is read, its columns, which rows would be skipped."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any
from uuid import UUID

from workers.ingestion.chunks import ID_DIGITS, Chunk, RecordIds
from workers.ingestion.data_file import DataFile
from workers.ingestion.ingest_csv import encoding_of
from workers.ingestion.ingest_state import read_as_of, warnings_of
from workers.ingestion.mapping import check_mapping
from workers.ingestion.options import ReadOptions, clean_options
from workers.ingestion.record_counts import RecordCounts, SkipReason, merge_counts
from workers.ingestion.refusals import Unreadable

MAX_FIRST_ROWS = 5

# Opens the file at its beginning, each time it is called.
OpenPieces = Callable[[], AbstractAsyncContextManager[AsyncIterator[bytes]]]


@dataclass(frozen=True, slots=True)
class FirstRow:
    """A record that would be saved, and the row it comes from."""

    line: int
    content: str
    category: str | None


@dataclass(frozen=True, slots=True)
class Preview:
    """The result that a file would have. Contents that the project has already are not known here."""

    read_as: Mapping[str, Any]
    columns: tuple[str, ...]
    mapping: Mapping[str, str]
    guessed: Mapping[str, str]
    total: int
    would_save: int
    skipped: int
    details: Mapping[str, Any]
    warnings: Mapping[str, Any]
    first_rows: list[FirstRow]


async def preview(
    open_pieces: OpenPieces, *, name: str, type_: str, mapping: Mapping[str, str], options: Mapping[str, Any]
) -> Preview:
    """Return the result that a file's job would have; raise Unreadable. It needs a few bytes of memory per record."""
    try:
        check_mapping(mapping)
        clean_options(dict(options))
    except ValueError as error:
        raise Unreadable(str(error)) from None
    encoding = ReadOptions.of(options).encoding
    if encoding is None:
        async with open_pieces() as pieces:
            encoding = await encoding_of(pieces)
    ids = RecordIds(UUID(int=0))
    async with open_pieces() as pieces, DataFile(pieces, name=name, encoding=encoding, options=options) as file:
        await file.open(mapping, type_=type_, ids=ids)
        totals = _PreviewTotals(ids)
        while chunk := await file.next_chunk():
            totals.add(chunk)
        return totals.preview(file, mapping)


class _PreviewTotals:
    """The totals of the chunks so far."""

    def __init__(self, ids: RecordIds) -> None:
        self._ids = ids
        self._counts = RecordCounts()
        self._notes: dict[str, Any] = {}
        self._replaced = 0
        self._known: set[bytes] = set()
        self._first: list[FirstRow] = []

    def add(self, chunk: Chunk) -> None:
        counts = chunk.counts.plus(RecordCounts())
        repeated = set[int](chunk.twins)
        for content, row in chunk.rows.items():
            digest = blake2b(content.encode(), digest_size=8).digest()
            if digest in self._known:
                repeated.add(self._line(row))
            self._known.add(digest)
        for line in sorted(repeated):
            counts.skip(SkipReason.DUPLICATE_IN_FILE, line)
        counts.saved = chunk.records - counts.skipped_count
        if not self._first:
            self._first = [
                FirstRow(self._line(row), content, None if (one := row.split("\t")[3]) == "\\N" else one)
                for content, row in islice(chunk.rows.items(), MAX_FIRST_ROWS)
            ]
        self._counts = self._counts.plus(counts)
        self._notes = merge_counts(self._notes, chunk.notes)
        self._replaced += chunk.replaced

    def preview(self, file: DataFile, mapping: Mapping[str, str]) -> Preview:
        warnings = warnings_of(file) | {note: one.details() for note, one in self._notes.items()}
        if self._replaced:
            warnings["replaced_characters"] = self._replaced
        return Preview(
            read_as=read_as_of(file),
            columns=file.table.columns,
            mapping={field: column for field, column in mapping.items() if column},
            guessed={str(field): column for field, column in file.places.found.items()},
            total=self._counts.total,
            would_save=self._counts.saved,
            skipped=self._counts.skipped_count,
            details=self._counts.details(),
            warnings=warnings,
            first_rows=self._first,
        )

    def _line(self, row: str) -> int:
        return self._ids.line(UUID(row[:ID_DIGITS]))
