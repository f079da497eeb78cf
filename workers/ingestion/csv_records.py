"""Read CSV records out of text that streams by, in bounded memory, and never refuse any of it.

A physical line ends with LF, CR LF or a lone CR. Where a record starts is a number of physical lines, so that a later
run gets there by counting line ends. What is read depends on the text alone, never on how it was cut into pieces.
"""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Any

# Of a record with all its lines. It must close its quotes within, and a line by itself must end within.
RECORD_LIMIT = 4 * 1024 * 1024
# So many records may run away before their lines are no longer tried one by one: each try reads RECORD_LIMIT again.
RUNAWAYS_TRIED = 1_000
DELIMITERS = (",", ";", "\t", "|")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Fed after what is there: it comes out as a record of its own, unless a quote is still open. Text has no NUL by then.
_END = "\x00"

# Python's own bound is one for the whole process; ours are below it.
csv.field_size_limit(4 * RECORD_LIMIT)


class Damage(StrEnum):
    """Why a physical line, or more, gives no record; the names are reasons in ``skippedDetails``."""

    MALFORMED = "malformed"
    TOO_LONG = "too_long"


Record = list[str] | Damage


@dataclass(frozen=True, slots=True)
class Dialect:
    """How cells are told apart and quoted; an empty ``quote``: nothing is quoted.

    With ``backslash`` a quote inside of a quoted cell may have a backslash before it, instead of being doubled.
    """

    delimiter: str
    quote: str = '"'
    backslash: bool = False

    def formats(self) -> dict[str, Any]:
        """Return what ``csv.reader`` takes."""
        if not self.quote:
            return {"delimiter": self.delimiter, "quoting": csv.QUOTE_NONE}
        escape = {"escapechar": "\\"} if self.backslash else {}
        return {"delimiter": self.delimiter, "quotechar": self.quote, **escape}

    def escaped(self, line: str) -> str:
        """Return ``line`` so that ``csv.reader`` leaves every backslash alone that escapes nothing."""
        if not self.backslash or "\\" not in line:
            return line
        return re.sub(rf"\\([\\{re.escape(self.quote)}])|\\", lambda found: found[0] if found[1] else "\\\\", line)


class CsvRecords:
    """Records of one file, from its physical line ``skip`` on. Feed text, take what is complete, feed more.

    ``line`` counts the physical lines consumed so far; the record that was yielded last begins at line ``start``.
    ``giving_up`` tells that lines are passed which only together make sense: no run can go on between them.
    ``replaced`` counts the characters up to there that were NUL and are U+FFFD now; in ``lossy`` text also those that
    were U+FFFD before, because whoever decoded it could not.
    """

    def __init__(
        self, dialect: Dialect, *, skip: int = 0, runaways: int = 0, lossy: bool = False, limit: int = RECORD_LIMIT
    ) -> None:
        self.line = 0
        self.start = 0
        self.replaced = 0
        self.runaways = runaways
        self.giving_up = False
        self._dialect = dialect
        self._formats = dialect.formats()
        self._skip = skip
        self._limit = limit
        self._bad = ("\x00", REPLACEMENT) if lossy else ("\x00",)
        self._open: list[str] = []  # whole lines of a record that is not complete
        self._partial = ""  # the beginning of a line
        self._overlong = False  # that beginning was dropped
        self._marks: dict[int, int] = {}  # replaced characters by line

    def feed(self, text: str, *, final: bool = False) -> Iterator[Record]:
        """Yield every record that is complete with ``text``; exhaust it before feeding on. An empty line is none."""
        lines = self._lines(text, final=final)
        if lines and (self._overlong or len(lines[0]) > self._limit):
            # A record by itself: what is open before it can close no more.
            yield from self._records(final=True)
            self._overlong = False
            if self._pass(1):
                yield Damage.TOO_LONG
            del lines[0]
        if not final and len(self._partial) > self._limit:
            self._overlong = True
            self._partial = self._partial[-1:]  # a CR, perhaps, whose LF is to come
        self._open += self._wanted(lines)
        yield from self._records(final=final)

    def _lines(self, text: str, *, final: bool) -> list[str]:
        """Return the physical lines that end in ``text``, NULs replaced; keep the beginning of the next."""
        text = self._partial + text
        self._partial = ""
        lines = io.StringIO(text, newline="").readlines()
        if lines and not final and not lines[-1].endswith("\n"):
            self._partial = lines.pop()
        if any(bad in text for bad in self._bad):
            lines = self._mark(lines)
        return lines

    def _mark(self, lines: list[str]) -> list[str]:
        first = self.line + len(self._open) + 1
        for number, line in enumerate(lines, first):
            if count := sum(map(line.count, self._bad)):
                self._marks[number] = count
        return [line.replace("\x00", REPLACEMENT) for line in lines]

    def _wanted(self, lines: list[str]) -> list[str]:
        """Pass what lies before ``skip``; return the rest of ``lines``."""
        before = min(len(lines), max(0, self._skip - self.line))
        self._pass(before)
        return lines[before:] if before else lines

    def _pass(self, count: int) -> bool:
        """Count the next physical lines as consumed; tell whether they were wanted."""
        self.start = first = self.line + 1
        self.line += count
        if self._marks:
            for number in range(first, first + count):
                found = self._marks.pop(number, 0)
                if number > self._skip:
                    self.replaced += found
        return first > self._skip

    def _records(self, *, final: bool) -> Iterator[Record]:
        """Yield the complete records among the open lines; with ``final``, leave none open."""
        while self._open:
            lines, done = self._open, 0
            size = sum(map(len, lines))
            given = map(self._dialect.escaped, lines) if self._dialect.backslash else lines
            parser = csv.reader(chain(given, (_END,)), **self._formats)
            for cells in parser:
                end = parser.line_num
                if end > len(lines):  # the end came out, alone or inside of an open quote
                    break
                if end - done > 1 and size > self._limit and sum(map(len, lines[done:end])) > self._limit:
                    break
                self.start = self.line + 1
                if self._marks:
                    self._pass(end - done)
                else:
                    self.line += end - done
                done = end
                if cells:
                    yield cells
            self._open = rest = lines[done:]
            if not rest or (not final and sum(map(len, rest)) <= self._limit):
                return
            yield from self._runaway()

    def _runaway(self) -> Iterator[Record]:
        """Give up the first line of a record whose quote is not closed in time: the next line may start a good one."""
        self.runaways += 1
        given_up = 1 if self.runaways <= RUNAWAYS_TRIED else len(self._open)
        for left in reversed(range(given_up)):
            self.giving_up = left > 0
            self._pass(1)
            yield Damage.MALFORMED
        del self._open[:given_up]
