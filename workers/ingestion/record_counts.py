"""Count the records that were read: saved, or skipped for a reason. Always ``saved + skipped = total``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

MAX_LINES_KEPT = 20


class SkipReason(StrEnum):
    """Why a record is skipped. The values are keys of ``skippedDetails``."""

    DUPLICATE_IN_FILE = "duplicate_in_file"
    DUPLICATE_IN_PROJECT = "duplicate_in_project"
    EMPTY_CONTENT = "empty_content"
    TOO_LONG = "too_long"
    MALFORMED = "malformed"
    INVALID_CATEGORY = "invalid_category"
    OTHER_TYPE = "other_type"


class RowNote(StrEnum):
    """Warnings about rows that are saved, and about the end of a file. The values are keys of ``warnings``."""

    ROWS_CUT = "rows_cut"
    CATEGORY_LEFT_EMPTY = "category_left_empty"
    CUT_SHORT = "cut_short"
    OTHER_ARRAYS = "other_arrays"
    MORE_BEHIND = "more_behind"
    NO_RECORDS = "no_records"


# Warnings that only the end of a file shows.
AT_END = (RowNote.CUT_SHORT, RowNote.OTHER_ARRAYS, RowNote.MORE_BEHIND, RowNote.NO_RECORDS)


@dataclass(slots=True)
class CountedLines:
    """The number of records with one reason or note, and the first of their lines."""

    count: int = 0
    lines: list[int] = field(default_factory=list)

    def add(self, line: int) -> None:
        """Count one more record."""
        self.count += 1
        if len(self.lines) < MAX_LINES_KEPT:
            self.lines.append(line)

    def plus(self, other: "CountedLines") -> "CountedLines":
        """Return the sum of both; ``other`` has later lines."""
        return CountedLines(self.count + other.count, sorted(self.lines + other.lines)[:MAX_LINES_KEPT])

    def details(self) -> dict[str, Any]:
        """Return the value that a job's row stores."""
        return {"count": self.count, "lines": self.lines}


@dataclass(slots=True)
class RecordCounts:
    """How many of the records read so far were saved, and how many were skipped for each reason."""

    saved: int = 0
    skipped: dict[str, CountedLines] = field(default_factory=dict)

    @property
    def skipped_count(self) -> int:
        return sum(one.count for one in self.skipped.values())

    @property
    def total(self) -> int:
        return self.saved + self.skipped_count

    def skip(self, reason: str, line: int) -> None:
        """Count one record as skipped."""
        found = self.skipped.get(reason)
        if found is None:
            found = self.skipped[reason] = CountedLines()
        found.add(line)

    def plus(self, other: "RecordCounts") -> "RecordCounts":
        """Return the sum of both; ``other`` has later lines."""
        return RecordCounts(self.saved + other.saved, merge_counts(self.skipped, other.skipped))

    def details(self) -> dict[str, Any]:
        """Return ``skippedDetails``."""
        return {reason: one.details() for reason, one in sorted(self.skipped.items())}


def merge_counts(first: Mapping[str, CountedLines], second: Mapping[str, CountedLines]) -> dict[str, CountedLines]:
    """Return the sums by reason; ``second`` has later lines."""
    none = CountedLines()
    return {reason: first.get(reason, none).plus(second.get(reason, none)) for reason in sorted({*first, *second})}


def lines_from_row(details: Mapping[str, Any] | None) -> dict[str, CountedLines]:
    """Return the counted lines that a job's row stores, by reason."""
    return {reason: CountedLines(one["count"], list(one["lines"])) for reason, one in (details or {}).items()}


def counts_from_row(saved: int, details: Mapping[str, Any] | None) -> RecordCounts:
    """Return the counts that a job's row stores."""
    return RecordCounts(saved, lines_from_row(details))
