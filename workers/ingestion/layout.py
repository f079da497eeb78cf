"""Detect the columns of a CSV from its beginning, and give every column a unique name."""

from collections.abc import Sequence
from dataclasses import dataclass

from workers.ingestion.blank import trim
from workers.ingestion.csv_records import CsvRecords, Damage, Dialect
from workers.ingestion.dialect import find_dialect
from workers.ingestion.options import ReadOptions
from workers.ingestion.refusals import Unreadable
from workers.ingestion.unwrapping import HEAD_BYTES

MAX_COLUMNS = 2_000
# A row may have this many cells more than the header. With more, it is malformed.
MAX_EXTRA_CELLS = 200


@dataclass(frozen=True, slots=True)
class Layout:
    """How a CSV is read. ``columns`` are unique names; records begin after ``header_lines`` physical lines."""

    dialect: Dialect
    columns: tuple[str, ...]
    header_lines: int


def read_layout(head: str, *, whole: bool, options: ReadOptions = ReadOptions()) -> Layout:  # noqa: B008 - frozen
    """Return the layout of the file that begins with ``head`` (all of it if ``whole``); raise Unreadable."""
    found = find_dialect(head, options)
    records = CsvRecords(found.dialect, skip=found.before)
    for record in records.feed(head, final=whole):
        if isinstance(record, Damage):
            problem = "has a quote that is never closed" if record is Damage.MALFORMED else "is too long"
            raise Unreadable(f"the header, line {records.line} of the file, {problem}")
        require_columns(record)
        return Layout(found.dialect, column_names(record), records.line)
    if whole:
        below = f" below its first {options.skip_rows:,} lines" if options.skip_rows else ""
        raise Unreadable(f"the file is empty{below}: it has no header")
    raise Unreadable(f"the header must end within the first {HEAD_BYTES:,} bytes of the file")


def require_columns(header: Sequence[str]) -> None:
    """Raise Unreadable if a header has too many columns."""
    if len(header) > MAX_COLUMNS:
        raise Unreadable(f"the header must name at most {MAX_COLUMNS:,} columns, got {len(header):,}")


def column_names(header: Sequence[str]) -> tuple[str, ...]:
    """Return a unique name for each cell of a header: ``column_3`` for an empty one, ``name_2`` for a second one."""
    names: list[str] = []
    cells = [trim(cell) for cell in header]
    taken = set(cells)
    for number, cell in enumerate(cells, 1):
        name = cell or f"column_{number}"
        if name in names or (not cell and name in taken):
            name = _free(name, {*names, *taken})
        names.append(name)
    return tuple(names)


def extra_names(columns: Sequence[str], count: int) -> tuple[str, ...]:
    """Return names for ``count`` cells beyond the header."""
    names = list(columns)
    for number in range(len(columns) + 1, len(columns) + count + 1):
        name = f"column_{number}"
        names.append(_free(name, set(names)) if name in names else name)
    return tuple(names[len(columns) :])


def _free(name: str, taken: set[str]) -> str:
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"
