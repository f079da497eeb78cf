"""Read CSV records from a stream of text, in bounded memory. No text is refused.

A physical line ends with LF, CR LF or a lone CR. The position of a record is a number of physical lines, so a later
run finds it by counting line ends. The result depends only on the text, not on how the text was cut into pieces.
"""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Any

# A record with all its lines, and a single line, may have this many characters. The quotes must close within it.
MAX_RECORD_CHARS = 4 * 1024 * 1024
# A runaway is a record with a quote that is not closed. Each one costs a second read of MAX_RECORD_CHARS, because
# reading continues with its second line. After this many, all its lines are skipped at once.
MAX_RUNAWAYS = 1_000
DELIMITERS = (",", ";", "\t", "|")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Appended to the text: it becomes a record of its own, unless a quote is still open. The text has no NULs any more.
_END = "\x00"

# Python's limit is one for the whole process; our own limits are lower.
csv.field_size_limit(4 * MAX_RECORD_CHARS)


class Damage(StrEnum):
    """Why one or more physical lines are not a record. The values are reasons in ``skippedDetails``."""

    MALFORMED = "malformed"
    TOO_LONG = "too_long"


CsvRecord = list[str] | Damage


@dataclass(frozen=True, slots=True)
class Dialect:
    """How cells are separated and quoted. If ``quote`` is empty, nothing is quoted.

    With ``backslash``, a quote inside a quoted cell may be escaped by a backslash instead of being doubled.
    """

    delimiter: str
    quote: str = '"'
    backslash: bool = False

    def formats(self) -> dict[str, Any]:
        """Return the parameters for ``csv.reader``."""
        if not self.quote:
            return {"delimiter": self.delimiter, "quoting": csv.QUOTE_NONE}
        escape = {"escapechar": "\\"} if self.backslash else {}
        return {"delimiter": self.delimiter, "quotechar": self.quote, **escape}

    def escaped(self, line: str) -> str:
        """Return ``line`` with every backslash doubled that escapes nothing, so that ``csv.reader`` keeps it."""
        if not self.backslash or "\\" not in line:
            return line
        return re.sub(rf"\\([\\{re.escape(self.quote)}])|\\", lambda found: found[0] if found[1] else "\\\\", line)


class CsvRecords:
    """The records of one file after its first ``skip`` physical lines. Feed text, take the complete records, feed more.

    ``line`` is the number of physical lines consumed so far. The last yielded record begins at line ``start``.
    ``giving_up`` is True while the lines of one runaway are skipped: no run can continue between them.
    ``replaced`` counts the NULs up to ``line`` that became U+FFFD. In ``lossy`` text it also counts the U+FFFDs of the
    decoder.
    """

    def __init__(
        self, dialect: Dialect, *, skip: int = 0, runaways: int = 0, lossy: bool = False, limit: int = MAX_RECORD_CHARS
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
        self._open: list[str] = []  # complete lines of an incomplete record
        self._partial = ""  # the beginning of a line
        self._overlong = False  # the beginning of this line was dropped
        self._marks: dict[int, int] = {}  # replaced characters by line

    def feed(self, text: str, *, final: bool = False) -> Iterator[CsvRecord]:
        """Yield the records that ``text`` completes; exhaust it before you feed more. Empty lines are not records."""
        lines = self._lines(text, final=final)
        if lines and (self._overlong or len(lines[0]) > self._limit):
            # This line is a record of its own: an open record before it can no longer close.
            yield from self._records(final=True)
            self._overlong = False
            if self._consume(1):
                yield Damage.TOO_LONG
            del lines[0]
        if not final and len(self._partial) > self._limit:
            self._overlong = True
            self._partial = self._partial[-1:]  # it may be a CR, and its LF comes next
        self._open += self._wanted(lines)
        yield from self._records(final=final)

    def _lines(self, text: str, *, final: bool) -> list[str]:
        """Return the physical lines that end in ``text``, with NULs replaced; keep the beginning of the next line."""
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
        """Consume the lines up to ``skip``; return the rest of ``lines``."""
        before = min(len(lines), max(0, self._skip - self.line))
        self._consume(before)
        return lines[before:] if before else lines

    def _consume(self, count: int) -> bool:
        """Count the next physical lines as consumed; return whether they are after ``skip``."""
        self.start = first = self.line + 1
        self.line += count
        if self._marks:
            for number in range(first, first + count):
                found = self._marks.pop(number, 0)
                if number > self._skip:
                    self.replaced += found
        return first > self._skip

    def _records(self, *, final: bool) -> Iterator[CsvRecord]:
        """Yield the complete records of the open lines. With ``final``, leave no line open."""
        while self._open:
            lines, done = self._open, 0
            size = sum(map(len, lines))
            given = map(self._dialect.escaped, lines) if self._dialect.backslash else lines
            parser = csv.reader(chain(given, (_END,)), **self._formats)
            for cells in parser:
                end = parser.line_num
                if end > len(lines):  # this is _END, alone or inside an open quote
                    break
                if end - done > 1 and size > self._limit and sum(map(len, lines[done:end])) > self._limit:
                    break
                self.start = self.line + 1
                if self._marks:
                    self._consume(end - done)
                else:
                    self.line += end - done
                done = end
                if cells:
                    yield cells
            self._open = rest = lines[done:]
            if not rest or (not final and sum(map(len, rest)) <= self._limit):
                return
            yield from self._runaway()

    def _runaway(self) -> Iterator[CsvRecord]:
        """Skip the first line of a record with an unclosed quote: the next line may start a valid record."""
        self.runaways += 1
        given_up = 1 if self.runaways <= MAX_RUNAWAYS else len(self._open)
        for left in reversed(range(given_up)):
            self.giving_up = left > 0
            self._consume(1)
            yield Damage.MALFORMED
        del self._open[:given_up]
