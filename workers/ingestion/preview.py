"""Read a file as its job would, and save nothing: how it is cut, which column is what, what would be skipped."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any
from uuid import UUID

from workers.ingestion.account import read_as_of, warnings_of
from workers.ingestion.chunks import ID_DIGITS, Chunk, Ids
from workers.ingestion.data_file import DataFile
from workers.ingestion.ingest_csv import encoding_of
from workers.ingestion.mapping import check
from workers.ingestion.options import Options, checked
from workers.ingestion.refusals import Unreadable
from workers.ingestion.tally import Reason, Tally, together

FIRST_ROWS = 5

# Begins the file anew each time.
OpenPieces = Callable[[], AbstractAsyncContextManager[AsyncIterator[bytes]]]


@dataclass(frozen=True, slots=True)
class FirstRow:
    """A record that would be saved, and the row it comes from."""

    line: int
    content: str
    category: str | None


@dataclass(frozen=True, slots=True)
class Preview:
    """What would become of a file. Repeats of what the project has already are not known here."""

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
    """Return what the job of a file would make of it; raise Unreadable. Memory: a few bytes a record."""
    try:
        check(mapping)
        checked(dict(options))
    except ValueError as error:
        raise Unreadable(str(error)) from None
    encoding = Options.of(options).encoding
    if encoding is None:
        async with open_pieces() as pieces:
            encoding = await encoding_of(pieces)
    ids = Ids(UUID(int=0))
    async with open_pieces() as pieces, DataFile(pieces, name=name, encoding=encoding, said=options) as file:
        await file.open(mapping, type_=type_, ids=ids)
        counted = _Counted(ids)
        while chunk := await file.next_chunk():
            counted.add(chunk)
        return counted.told(file, mapping)


class _Counted:
    """What was found in the chunks so far."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._tally = Tally()
        self._notes: dict[str, Any] = {}
        self._replaced = 0
        self._known: set[bytes] = set()
        self._first: list[FirstRow] = []

    def add(self, chunk: Chunk) -> None:
        tally = chunk.tally.plus(Tally())
        repeated = set[int](chunk.twins)
        for content, row in chunk.rows.items():
            digest = blake2b(content.encode(), digest_size=8).digest()
            if digest in self._known:
                repeated.add(self._line(row))
            self._known.add(digest)
        for line in sorted(repeated):
            tally.skip(Reason.DUPLICATE_IN_FILE, line)
        tally.saved = chunk.records - tally.skipped_count
        if not self._first:
            self._first = [
                FirstRow(self._line(row), content, None if (one := row.split("\t")[3]) == "\\N" else one)
                for content, row in islice(chunk.rows.items(), FIRST_ROWS)
            ]
        self._tally = self._tally.plus(tally)
        self._notes = together(self._notes, chunk.notes)
        self._replaced += chunk.replaced

    def told(self, file: DataFile, mapping: Mapping[str, str]) -> Preview:
        warnings = warnings_of(file) | {note: one.details() for note, one in self._notes.items()}
        if self._replaced:
            warnings["replaced_characters"] = self._replaced
        return Preview(
            read_as=read_as_of(file),
            columns=file.table.columns,
            mapping={field: column for field, column in mapping.items() if column},
            guessed={str(field): column for field, column in file.places.found.items()},
            total=self._tally.total,
            would_save=self._tally.saved,
            skipped=self._tally.skipped_count,
            details=self._tally.details(),
            warnings=warnings,
            first_rows=self._first,
        )

    def _line(self, row: str) -> int:
        return self._ids.line(UUID(row[:ID_DIGITS]))
