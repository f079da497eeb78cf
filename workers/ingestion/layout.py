"""Find out from the beginning of a file how it is cut into columns, and what these are called."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from workers.ingestion.csv_records import DELIMITERS, CsvRecords, Damage
from workers.ingestion.refusals import Unreadable

# What a door and a run look at to tell the delimiter and the header.
HEAD_BYTES = 1024 * 1024
MOST_COLUMNS = 2_000
# A row may have so many cells more than the header; beyond, it is no row of this table.
MOST_EXTRA_CELLS = 200
_SAMPLE_CHARACTERS = 64 * 1024
_SAMPLE_RECORDS = 200


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file is cut: ``columns`` have unique names; records begin after ``header_lines`` physical lines."""

    delimiter: str
    columns: tuple[str, ...]
    header_lines: int


def read_layout(head: str, *, whole: bool) -> Layout:
    """Return the layout of the file that begins with ``head``, or is ``head``; raise Unreadable."""
    delimiter = sniff(head)
    records = CsvRecords(delimiter)
    for record in records.feed(head, final=whole):
        if isinstance(record, Damage):
            problem = "has a quote that is never closed" if record is Damage.MALFORMED else "is too long"
            raise Unreadable(f"the header, line {records.line} of the file, {problem}")
        if len(record) > MOST_COLUMNS:
            raise Unreadable(f"the header must name at most {MOST_COLUMNS:,} columns, got {len(record):,}")
        return Layout(delimiter, column_names(record), records.line)
    if whole:
        raise Unreadable("the file is empty: it has no header")
    raise Unreadable(f"the header must end within the first {HEAD_BYTES:,} bytes of the file")


def sniff(head: str) -> str:
    """Return the delimiter under which most records of ``head`` have as many cells as the first one, and that many.

    One that leaves the first record whole is meant only if all do. Of equals the more usual one.
    """

    def fits(delimiter: str) -> tuple[bool, float, int]:
        counts = _cell_counts(head, delimiter)
        if not counts:
            return False, 0.0, 0
        return counts[0] > 1, counts.count(counts[0]) / len(counts), counts[0]

    return max(DELIMITERS, key=fits)  # the first of equals


def _cell_counts(head: str, delimiter: str) -> list[int]:
    """Return how many cells the first records have."""
    sample = head[:_SAMPLE_CHARACTERS]
    records = CsvRecords(delimiter).feed(sample, final=sample == head)
    return [len(cells) for cells in islice(records, _SAMPLE_RECORDS) if not isinstance(cells, Damage)]


def column_names(header: Sequence[str]) -> tuple[str, ...]:
    """Return a unique name for each cell of a header: ``column_3`` for an empty one, ``name_2`` for a second one."""
    names: list[str] = []
    taken = {cell.strip() for cell in header}
    for number, cell in enumerate(header, 1):
        name = cell.strip() or f"column_{number}"
        if name in names or (not cell.strip() and name in taken):
            name = _free(name, {*names, *taken})
        names.append(name)
    return tuple(names)


def extra_names(columns: Sequence[str], count: int) -> tuple[str, ...]:
    """Return names for so many cells beyond the header."""
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
