"""Detect from the beginning of a CSV how its cells are separated and quoted. Pure."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from workers.ingestion.csv_records import DELIMITERS, CsvRecords, Damage, Dialect
from workers.ingestion.options import ReadOptions

_SAMPLE_CHARACTERS = 64 * 1024
_SAMPLE_RECORDS = 200
# The first line that Excel writes.
_SEPARATOR = re.compile(r'"?sep=(?P<delimiter>[^\r\n"])"?[ \t]*[,;\t|]*(?:\r\n|\r|\n|$)', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DetectedDialect:
    """A file's dialect, and the number of physical lines before its header."""

    dialect: Dialect
    before: int


def find_dialect(head: str, options: ReadOptions) -> DetectedDialect:
    """Return the dialect of the file that begins with ``head``. Options that are given are not detected."""
    before = options.skip_rows
    text = skip_lines(head, before)
    delimiter = options.delimiter
    if found := _SEPARATOR.match(text):
        before, text = before + 1, text[found.end() :]
        delimiter = delimiter or found["delimiter"]
    quote = '"' if options.quote is None else options.quote
    known = Dialect(delimiter or ",", quote)
    if delimiter is None:
        known = replace(known, delimiter=detect_delimiter(text, quote=quote))
    if quote and _is_backslashed(text, known):
        known = replace(known, backslash=True)
        if delimiter is None:
            known = replace(known, delimiter=detect_delimiter(text, quote=quote, backslash=True))
    return DetectedDialect(known, before)


def skip_lines(text: str, lines: int) -> str:
    """Return ``text`` without its first ``lines`` physical lines."""
    at = 0
    ends = re.compile(r"\r\n|\r|\n").finditer(text) if lines else iter(())
    for end in islice(ends, lines):
        at = end.end()
    return text[at:]


def detect_delimiter(head: str, *, quote: str = '"', backslash: bool = False) -> str:
    """Return the delimiter with which most records of ``head`` have as many cells as the first one.

    If several are equally good, the one that gives more cells wins, then the more usual one. A delimiter that does not
    occur in the first record is returned only if this holds for all delimiters.
    """

    def fits(delimiter: str) -> tuple[bool, float, int]:
        counts = _cell_counts(head, Dialect(delimiter, quote, backslash=backslash))
        if not counts:
            return False, 0.0, 0
        return counts[0] > 1, counts.count(counts[0]) / len(counts), counts[0]

    return max(DELIMITERS, key=fits)  # of equally good ones, the first


def _cell_counts(head: str, dialect: Dialect) -> list[int]:
    """Return the number of cells of each of the first records."""
    sample = head[:_SAMPLE_CHARACTERS]
    records = CsvRecords(dialect).feed(sample, final=sample == head)
    return [len(cells) for cells in islice(records, _SAMPLE_RECORDS) if not isinstance(cells, Damage)]


def _is_backslashed(head: str, dialect: Dialect) -> bool:
    """Return whether quotes inside cells are escaped by a backslash instead of being doubled.

    If so, a reader that knows only doubled quotes finds text after closing quotes; a reader that knows both does not.
    """
    sample = head[:_SAMPLE_CHARACTERS]
    if f"\\{dialect.quote}" not in sample:
        return False
    return _breaches(sample, replace(dialect, backslash=True)) < _breaches(sample, dialect)


def _breaches(sample: str, dialect: Dialect) -> int:
    """Return how often a quote closes before the end of its cell, or never."""
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
