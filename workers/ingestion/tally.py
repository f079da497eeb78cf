"""Count what was read: saved, or skipped for a reason with its first lines. ``saved + skipped = total``, always."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

LINES_KEPT = 20


class Reason(StrEnum):
    """Why a record is skipped; the names are keys of ``skippedDetails``."""

    DUPLICATE_IN_FILE = "duplicate_in_file"
    DUPLICATE_IN_PROJECT = "duplicate_in_project"
    EMPTY_CONTENT = "empty_content"
    TOO_LONG = "too_long"
    MALFORMED = "malformed"
    INVALID_CATEGORY = "invalid_category"
    OTHER_TYPE = "other_type"


class Note(StrEnum):
    """What is said of rows that are saved nevertheless; the names are keys of ``warnings``."""

    ROWS_CUT = "rows_cut"
    CATEGORY_LEFT_EMPTY = "category_left_empty"
    CUT_SHORT = "cut_short"
    OTHER_ARRAYS = "other_arrays"
    MORE_BEHIND = "more_behind"


# What is told by the end of a file alone.
AT_END = (Note.CUT_SHORT, Note.OTHER_ARRAYS, Note.MORE_BEHIND)


@dataclass(slots=True)
class Skipped:
    """How many records were skipped for one reason, and the first of them by line."""

    count: int = 0
    lines: list[int] = field(default_factory=list)

    def add(self, line: int) -> None:
        """Count one more record."""
        self.count += 1
        if len(self.lines) < LINES_KEPT:
            self.lines.append(line)

    def plus(self, other: "Skipped") -> "Skipped":
        """Return both together; ``other`` is of later lines."""
        return Skipped(self.count + other.count, sorted(self.lines + other.lines)[:LINES_KEPT])

    def details(self) -> dict[str, Any]:
        """Return what a job's row has of it."""
        return {"count": self.count, "lines": self.lines}


@dataclass(slots=True)
class Tally:
    """What became of the records read so far."""

    saved: int = 0
    skipped: dict[str, Skipped] = field(default_factory=dict)

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
            found = self.skipped[reason] = Skipped()
        found.add(line)

    def plus(self, other: "Tally") -> "Tally":
        """Return both together; ``other`` is of later lines."""
        return Tally(self.saved + other.saved, together(self.skipped, other.skipped))

    def details(self) -> dict[str, Any]:
        """Return ``skippedDetails``."""
        return {reason: one.details() for reason, one in sorted(self.skipped.items())}


def together(first: Mapping[str, Skipped], second: Mapping[str, Skipped]) -> dict[str, Skipped]:
    """Return both by reason; ``second`` is of later lines."""
    return {
        reason: first.get(reason, Skipped()).plus(second.get(reason, Skipped())) for reason in sorted({*first, *second})
    }


def skipped_of(details: Mapping[str, Any] | None) -> dict[str, Skipped]:
    """Return what a job's row has, by reason."""
    return {reason: Skipped(one["count"], list(one["lines"])) for reason, one in (details or {}).items()}


def tally_of(saved: int, details: Mapping[str, Any] | None) -> Tally:
    """Return the tally that a job's row has."""
    return Tally(saved, skipped_of(details))
