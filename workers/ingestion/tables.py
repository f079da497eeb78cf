"""The rows of a file of any kind, told from the beginning of its text: what its columns are and who reads it on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from workers.ingestion.csv_records import CsvRecords, Damage, Dialect
from workers.ingestion.json_records import Begin, JsonItems, JsonLines, find_items
from workers.ingestion.kinds import TITLES, Kind
from workers.ingestion.layout import column_names, read_layout, require_columns
from workers.ingestion.objects import Object, columns_of, text_of
from workers.ingestion.options import Options
from workers.ingestion.refusals import Unreadable, listed
from workers.ingestion.sheet_rows import SheetRows

SAMPLE_RECORDS = 1_000

Row = list[str] | Object
AnyRecord = Row | Damage


class Reader(Protocol):
    """Makes records out of text that is fed to it. What the numbers mean is told with ``CsvRecords``."""

    line: int
    start: int
    replaced: int
    runaways: int
    giving_up: bool

    def feed(self, text: str, *, final: bool = False) -> Iterator[AnyRecord]: ...


@dataclass(frozen=True, slots=True)
class Table:
    """How a file is read. Its records begin at ``at`` in its text, below row ``header_rows``."""

    kind: Kind
    columns: tuple[str, ...]
    header_rows: int = 0
    at: int = 0
    dialect: Dialect | None = None
    begin: Begin | None = None
    sheet: str | None = None
    other_sheets: tuple[str, ...] = ()
    unsaved_formulas: int = 0
    beginning: Sequence[Row] = field(default=(), repr=False)

    def reader(self, *, skip: int = 0, runaways: int = 0, lossy: bool = False) -> Reader:
        """Return what reads the records behind row ``skip``."""
        skip = max(skip, self.header_rows)
        match self.kind:
            case Kind.JSONL:
                return JsonLines(skip=skip, lossy=lossy)
            case Kind.JSON:
                return JsonItems(skip=skip, lossy=lossy)
            case Kind.XLSX:
                return SheetRows(skip=skip, width=len(self.columns))
            case _:
                assert self.dialect is not None
                return CsvRecords(self.dialect, skip=skip, runaways=runaways, lossy=lossy)

    def sample(self, column: int) -> list[str]:
        """Return what the first records have in a column."""
        name = self.columns[column]
        return [
            text_of(row, name) if isinstance(row, dict) else row[column] if column < len(row) else ""
            for row in self.beginning
        ]

    def read_as(self) -> dict[str, Any]:
        """Return what is to be said of how the file is read."""
        said: dict[str, Any] = {"kind": TITLES[self.kind]}
        if self.dialect is not None:
            said |= {"delimiter": self.dialect.delimiter, "quote": self.dialect.quote or "none"}
            said |= {"escape": "backslash"} if self.dialect.backslash else {}
        if self.begin is not None and self.begin.within is not None:
            said["array"] = self.begin.within
        if self.sheet is not None:
            said["sheet"] = self.sheet
        return said


def read_table(head: str, *, kind: Kind, whole: bool, options: Options) -> Table:
    """Return how the file is read that begins with ``head``, or is ``head``; raise Unreadable."""
    match kind:
        case Kind.CSV:
            layout = read_layout(head, whole=whole, options=options)
            table = Table(kind, layout.columns, layout.header_lines, dialect=layout.dialect)
        case Kind.XLSX:
            table = _sheet(head, whole=whole, skip=options.skip_rows)
        case Kind.JSON:
            begin = find_items(head, whole=whole)
            table = Table(kind, (), at=begin.at, begin=begin)
        case _:
            table = Table(kind, ())
    beginning = _beginning(table, head, whole=whole)
    columns = table.columns or columns_of(row for row in beginning if isinstance(row, dict))
    if not columns:
        where = "no line of the file is an object with fields" if kind is Kind.JSONL else "the JSON has no objects"
        raise Unreadable(f'{where}: each record must be an object such as {{"content": …}}')  # fmt: skip
    return Table(kind, columns, table.header_rows, table.at, table.dialect, table.begin, table.sheet,
                 table.other_sheets, table.unsaved_formulas, beginning)  # fmt: skip


def refuse_options(said: Mapping[str, Any], kind: Kind) -> None:
    """Raise Unreadable for an option that means nothing for a file of this kind."""
    meant = {Kind.CSV: {"encoding", "delimiter", "quote", "skip_rows"}, Kind.XLSX: {"skip_rows"}}
    for option in said:
        if option not in meant.get(kind, {"encoding"}):
            raise Unreadable(f"{option} means nothing here: the file is {TITLES[kind]}")


def _beginning(table: Table, head: str, *, whole: bool) -> list[Row]:
    records = table.reader().feed(head[table.at :], final=whole)
    return [row for row in islice(records, SAMPLE_RECORDS) if not isinstance(row, Damage)]


def _sheet(head: str, *, whole: bool, skip: int) -> Table:
    first, _, rest = head.partition("\n")
    told = json.loads(first)
    if "error" in told:
        raise Unreadable(told["error"])
    rows = SheetRows(skip=skip)
    for cells in rows.feed(rest, final=whole):
        assert isinstance(cells, list)
        require_columns(cells)
        return Table(Kind.XLSX, column_names(cells), rows.line, at=len(first) + 1, sheet=told["sheet"],
                     other_sheets=tuple(told["others"]), unsaved_formulas=told["unsaved_formulas"])  # fmt: skip
    others = f"; other sheets, which are not read: {listed(told['others'])}" if told["others"] else ""
    raise Unreadable(f"the workbook's sheet {told['sheet']!r} is empty: it has no header{others}")
