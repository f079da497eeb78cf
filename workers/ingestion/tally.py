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


@dataclass(slots=True)
class Skipped:
    """How many records were skipped for one reason, and the first of them by line."""

    count: int = 0
    lines: list[int] = field(default_factory=list)


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
        found.count += 1
        if len(found.lines) < LINES_KEPT:
            found.lines.append(line)

    def plus(self, other: "Tally") -> "Tally":
        """Return both together; ``other`` is of later lines."""
        skipped = {}
        for reason in sorted({*self.skipped, *other.skipped}):
            first, second = self.skipped.get(reason, Skipped()), other.skipped.get(reason, Skipped())
            lines = sorted(first.lines + second.lines)[:LINES_KEPT]
            skipped[reason] = Skipped(first.count + second.count, lines)
        return Tally(self.saved + other.saved, skipped)

    def details(self) -> dict[str, Any]:
        """Return ``skippedDetails``."""
        return {reason: {"count": one.count, "lines": one.lines} for reason, one in sorted(self.skipped.items())}


def tally_of(saved: int, details: Mapping[str, Any] | None) -> Tally:
    """Return the tally that a job's row has."""
    skipped = {reason: Skipped(one["count"], list(one["lines"])) for reason, one in (details or {}).items()}
    return Tally(saved, skipped)
