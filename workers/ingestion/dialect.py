"""Find out from the beginning of a CSV how its cells are told apart and quoted. Pure."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from workers.ingestion.csv_records import DELIMITERS, CsvRecords, Damage, Dialect
from workers.ingestion.options import Options

_SAMPLE_CHARACTERS = 64 * 1024
_SAMPLE_RECORDS = 200
# Excel's own first line.
_SEPARATOR = re.compile(r'"?sep=(?P<delimiter>[^\r\n"])"?[ \t]*[,;\t|]*(?:\r\n|\r|\n|$)', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Found:
    """A file's dialect, and how many physical lines are before its header; ``said`` is the ``sep=`` line's."""

    dialect: Dialect
    before: int


def find_dialect(head: str, options: Options) -> Found:
    """Return how the file that begins with ``head`` is cut; what ``options`` say is not found out."""
    before = options.skip_rows
    text = behind(head, before)
    delimiter = options.delimiter
    if found := _SEPARATOR.match(text):
        before, text = before + 1, text[found.end() :]
        delimiter = delimiter or found["delimiter"]
    quote = '"' if options.quote is None else options.quote
    known = Dialect(delimiter or ",", quote)
    if delimiter is None:
        known = replace(known, delimiter=sniff(text, quote=quote))
    if quote and _is_backslashed(text, known):
        known = replace(known, backslash=True)
        if delimiter is None:
            known = replace(known, delimiter=sniff(text, quote=quote, backslash=True))
    return Found(known, before)


def behind(text: str, lines: int) -> str:
    """Return ``text`` without so many physical lines."""
    at = 0
    ends = re.compile(r"\r\n|\r|\n").finditer(text) if lines else iter(())
    for end in islice(ends, lines):
        at = end.end()
    return text[at:]


def sniff(head: str, *, quote: str = '"', backslash: bool = False) -> str:
    """Return the delimiter under which most records of ``head`` have as many cells as the first one, and that many.

    One that leaves the first record whole is meant only if all do. Of equals the more usual one.
    """

    def fits(delimiter: str) -> tuple[bool, float, int]:
        counts = _cell_counts(head, Dialect(delimiter, quote, backslash=backslash))
        if not counts:
            return False, 0.0, 0
        return counts[0] > 1, counts.count(counts[0]) / len(counts), counts[0]

    return max(DELIMITERS, key=fits)  # the first of equals


def _cell_counts(head: str, dialect: Dialect) -> list[int]:
    """Return how many cells the first records have."""
    sample = head[:_SAMPLE_CHARACTERS]
    records = CsvRecords(dialect).feed(sample, final=sample == head)
    return [len(cells) for cells in islice(records, _SAMPLE_RECORDS) if not isinstance(cells, Damage)]


def _is_backslashed(head: str, dialect: Dialect) -> bool:
    """Tell whether quotes inside of cells have a backslash before them, instead of being doubled.

    Then a reader that knows only doubled ones finds text behind closing quotes, and one that knows both does not.
    """
    sample = head[:_SAMPLE_CHARACTERS]
    if f"\\{dialect.quote}" not in sample:
        return False
    return _breaches(sample, replace(dialect, backslash=True)) < _breaches(sample, dialect)


def _breaches(sample: str, dialect: Dialect) -> int:
    """Return how often a quote closes where neither a cell nor a line ends, or not at all."""
    lines = io.StringIO(sample, newline="")
    rows = csv.reader(map(dialect.escaped, lines), strict=True, **dialect.formats())
    return sum(1 for broken in _attempts(rows) if broken)


def _attempts(rows: Iterator[list[str]]) -> Iterator[bool]:
    while True:
        try:
            next(rows)
        except StopIteration:
            return
        except csv.Error:
            yield True
        else:
            yield False
