"""Find out from the beginning of a file of any kind what its columns are and which reader reads its records."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from workers.ingestion.csv_records import CsvRecords, Damage, Dialect
from workers.ingestion.json_records import ItemsStart, JsonItems, JsonLines, find_items
from workers.ingestion.kinds import TITLES, FileKind
from workers.ingestion.layout import column_names, read_layout, require_columns
from workers.ingestion.objects import JsonObject, columns_of, field_text
from workers.ingestion.options import ReadOptions
from workers.ingestion.refusals import Unreadable, quote_names
from workers.ingestion.sheet_rows import SheetRows

SAMPLE_RECORDS = 1_000

TableRow = list[str] | JsonObject
AnyRecord = TableRow | Damage


class Reader(Protocol):
    """Makes records from text that is fed to it. ``CsvRecords`` describes the attributes."""

    line: int
    start: int
    replaced: int
    runaways: int
    giving_up: bool

    def feed(self, text: str, *, final: bool = False) -> Iterator[AnyRecord]: ...


@dataclass(frozen=True, slots=True)
class Table:
    """How a file is read. Its records begin at position ``at`` of its text, below row ``header_rows``."""

    kind: FileKind
    columns: tuple[str, ...]
    header_rows: int = 0
    at: int = 0
    dialect: Dialect | None = None
    begin: ItemsStart | None = None
    sheet: str | None = None
    other_sheets: tuple[str, ...] = ()
    unsaved_formulas: int = 0
    beginning: Sequence[TableRow] = field(default=(), repr=False)

    def reader(self, *, skip: int = 0, runaways: int = 0, lossy: bool = False) -> Reader:
        """Return a reader for the records after row ``skip``."""
        skip = max(skip, self.header_rows)
        match self.kind:
            case FileKind.JSONL:
                return JsonLines(skip=skip, lossy=lossy)
            case FileKind.JSON:
                return JsonItems(skip=skip, lossy=lossy)
            case FileKind.XLSX:
                return SheetRows(skip=skip, width=len(self.columns))
            case _:
                assert self.dialect is not None
                return CsvRecords(self.dialect, skip=skip, runaways=runaways, lossy=lossy)

    def sample(self, column: int) -> list[str]:
        """Return the values of a column in the first records."""
        name = self.columns[column]
        return [
            field_text(row, name) if isinstance(row, dict) else row[column] if column < len(row) else ""
            for row in self.beginning
        ]

    def read_as(self) -> dict[str, Any]:
        """Return how the file is read, for people."""
        read_as: dict[str, Any] = {"kind": TITLES[self.kind]}
        if self.dialect is not None:
            read_as |= {"delimiter": self.dialect.delimiter, "quote": self.dialect.quote or "none"}
            read_as |= {"escape": "backslash"} if self.dialect.backslash else {}
        if self.begin is not None and self.begin.within is not None:
            read_as["array"] = self.begin.within
        if self.sheet is not None:
            read_as["sheet"] = self.sheet
        return read_as


def read_table(head: str, *, kind: FileKind, whole: bool, options: ReadOptions) -> Table:
    """Return how to read the file that begins with ``head`` (all of it if ``whole``); raise Unreadable."""
    match kind:
        case FileKind.CSV:
            layout = read_layout(head, whole=whole, options=options)
            table = Table(kind, layout.columns, layout.header_lines, dialect=layout.dialect)
        case FileKind.XLSX:
            table = _sheet(head, whole=whole, skip=options.skip_rows)
        case FileKind.JSON:
            begin = find_items(head, whole=whole)
            table = Table(kind, (), at=begin.at, begin=begin)
        case _:
            table = Table(kind, ())
    beginning = _beginning(table, head, whole=whole)
    columns = table.columns or columns_of(row for row in beginning if isinstance(row, dict))
    if not columns:
        where = "no line of the file is an object with fields" if kind is FileKind.JSONL else "the JSON has no objects"
        raise Unreadable(f'{where}: each record must be an object such as {{"content": …}}')  # fmt: skip
    return Table(kind, columns, table.header_rows, table.at, table.dialect, table.begin, table.sheet,
                 table.other_sheets, table.unsaved_formulas, beginning)  # fmt: skip


def refuse_options(options: Mapping[str, Any], kind: FileKind) -> None:
    """Raise Unreadable if an option has no meaning for a file of this kind."""
    allowed = {FileKind.CSV: {"encoding", "delimiter", "quote", "skip_rows"}, FileKind.XLSX: {"skip_rows"}}
    for option in options:
        if option not in allowed.get(kind, {"encoding"}):
            raise Unreadable(f"{option} has no meaning here: the file is {TITLES[kind]}")


def _beginning(table: Table, head: str, *, whole: bool) -> list[TableRow]:
    records = table.reader().feed(head[table.at :], final=whole)
    return [row for row in islice(records, SAMPLE_RECORDS) if not isinstance(row, Damage)]


def _sheet(head: str, *, whole: bool, skip: int) -> Table:
    first, _, rest = head.partition("\n")
    described = json.loads(first)
    if "error" in described:
        raise Unreadable(described["error"])
    rows = SheetRows(skip=skip)
    for cells in rows.feed(rest, final=whole):
        assert isinstance(cells, list)
        require_columns(cells)
        return Table(FileKind.XLSX, column_names(cells), rows.line, at=len(first) + 1, sheet=described["sheet"],
                     other_sheets=tuple(described["others"]),
                     unsaved_formulas=described["unsaved_formulas"])  # fmt: skip
    others = f"; other sheets, which are not read: {quote_names(described['others'])}" if described["others"] else ""
    raise Unreadable(f"the workbook's sheet {described['sheet']!r} is empty: it has no header{others}")
