"""Read records from a stream of JSON text, in bounded memory: one object per line, or the items of one array.

An item or line that cannot be read becomes a ``Damage``, as in a CSV, and reading continues after it.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

from workers.ingestion.csv_records import MAX_RECORD_CHARS, REPLACEMENT, Damage
from workers.ingestion.objects import JsonObject, as_record, as_text, parse_json
from workers.ingestion.refusals import Unreadable, quote_names

ObjectRecord = JsonObject | Damage
_BLANK = re.compile(r"[ \t\r\n]*")
_OUTSIDE, _IN_STRING = re.compile(r'["\[\]{},]'), re.compile(r'\\.?|"', re.DOTALL)
_MEMBER = re.compile(r'[\s,]*(?:(?P<end>\})|(?P<name>"(?:[^"\\]|\\.)*")\s*:\s*)', re.DOTALL)
_OF_OBJECTS = re.compile(r"\[(?=\s*\{)")
_BYTE_ORDER_MARK = "\ufeff"
# The text after the array, as far as it is searched for other arrays.
MAX_TAIL_CHARS = 1024 * 1024


class JsonLines:
    """The records of a file with one object per line, after its first ``skip`` lines. Used like ``CsvRecords``."""

    runaways = 0
    giving_up = False

    def __init__(self, *, skip: int = 0, lossy: bool = False, limit: int = MAX_RECORD_CHARS) -> None:
        self.line = self.start = self.replaced = 0
        self._skip, self._lossy, self._limit = skip, lossy, limit
        self._partial = ""
        self._overlong = False

    def feed(self, text: str, *, final: bool = False) -> Iterator[ObjectRecord]:
        """Yield the records that ``text`` completes; exhaust it before you feed more. Empty lines are not records."""
        lines = io.StringIO(self._partial + text, newline="").readlines()
        self._partial = lines.pop() if lines and not final and not lines[-1].endswith("\n") else ""
        for line in lines:
            self.line += 1
            overlong, self._overlong = self._overlong or len(line) > self._limit, False
            if self.line > self._skip and (overlong or not line.isspace()):
                self.start = self.line
                yield Damage.TOO_LONG if overlong else self._record(line)
        if len(self._partial) > self._limit:
            self._overlong = True
            self._partial = self._partial[-1:]  # it may be a CR, and its LF comes next

    def _record(self, line: str) -> ObjectRecord:
        record = _read(line.strip(_BYTE_ORDER_MARK))
        if isinstance(record, Damage):
            return record
        self.replaced += record[1] + (line.count(REPLACEMENT) if self._lossy else 0)
        return record[0]


def _read(text: str) -> tuple[JsonObject, int] | Damage:
    begin = _end_of_blank(text, 0)
    try:
        value, end = parse_json(text, begin)
    except ValueError:
        return Damage.MALFORMED
    return as_record(value, text) if _end_of_blank(text, end) == len(text) else Damage.MALFORMED


class JsonItems:
    """The items of one array after the first ``skip``. Used like ``CsvRecords``, with the text after the bracket.

    ``line`` and ``start`` count items from 1, because all JSON may be on one line. ``ended`` is True after the closing
    bracket of the array, ``cut_short`` if the text ended before it. ``tail`` is the text after the bracket.
    """

    runaways = 0
    giving_up = False

    def __init__(self, *, skip: int = 0, lossy: bool = False, limit: int = MAX_RECORD_CHARS) -> None:
        self.line = self.start = self.replaced = 0
        self.ended = self.cut_short = False
        self.tail = ""
        self._skip, self._lossy, self._limit = skip, lossy, limit
        self._text = ""
        self._skipping: _Nesting | None = None  # inside an item that is skipped

    def feed(self, text: str, *, final: bool = False) -> Iterator[ObjectRecord]:
        """Yield the items that ``text`` completes; exhaust this before you feed more."""
        if self.ended:
            self.tail += text[: MAX_TAIL_CHARS - len(self.tail)]
            return
        self._text += text
        at = 0
        while True:
            if self._skipping is not None:
                end = self._skipping.end_in(self._text, at)
                if end is None:
                    at = len(self._text)
                    break
                at, self._skipping = end, None
            begin = _end_of_blank(self._text, at)
            if begin == len(self._text):
                at = begin
                break
            if self._text[begin] == "]":
                self.ended, self.tail, at = True, self._text[begin + 1 :][:MAX_TAIL_CHARS], len(self._text)
                break
            if self._text[begin] == ",":
                at = begin + 1
                continue
            found = self._item(begin, final=final)
            if found is None:
                at = begin
                break
            record, at = found
            yield from self._counted(record)
        self._text = self._text[at:]
        self.cut_short = final and not self.ended

    def _item(self, begin: int, *, final: bool) -> tuple[tuple[JsonObject, int] | Damage, int] | None:
        """Return the item that begins here and where it ends; None if more text is needed."""
        text = self._text
        try:
            value, end = parse_json(text, begin)
        except ValueError:
            value = None
            nesting = _Nesting()
            found = nesting.end_in(text, begin)
            if found is not None:
                return Damage.MALFORMED, max(found, begin + 1)  # a bracket without an opening one is skipped, too
            if final:
                return Damage.MALFORMED, len(text)
            if len(text) - begin <= self._limit:
                return None
            self._skipping = nesting
            return Damage.TOO_LONG, len(text)
        if end == len(text) and not final and not isinstance(value, (dict, list, str)):
            return None  # the number may continue
        if end - begin > self._limit:
            return Damage.TOO_LONG, end
        record = as_record(value, text[begin:end])
        if self._lossy and not isinstance(record, Damage) and (lost := text.count(REPLACEMENT, begin, end)):
            record = record[0], record[1] + lost
        return record, end

    def _counted(self, record: tuple[JsonObject, int] | Damage) -> Iterator[ObjectRecord]:
        self.line += 1
        self.start = self.line
        if self.line <= self._skip:
            return
        if isinstance(record, Damage):
            yield record
            return
        value, replaced = record
        self.replaced += replaced
        yield value


class _Nesting:
    """Finds the end of a JSON value by its brackets, quotes and commas alone, piece by piece."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def end_in(self, text: str, at: int) -> int | None:
        """Return where the value that continues at ``at`` ends; None if it does not end in ``text``."""
        at += 1 if self._escaped and at < len(text) else 0
        self._escaped = self._escaped and at == len(text)
        while found := (_IN_STRING if self._in_string else _OUTSIDE).search(text, at):
            at, sign = found.end(), found[0]
            if self._in_string:
                self._in_string = sign != '"'
                self._escaped = sign == "\\"
            elif sign == '"':
                self._in_string = True
            elif sign in "[{":
                self._depth += 1
            elif sign == "," and self._depth == 0:
                return found.start()
            elif sign in "]}":
                self._depth -= 1
                if self._depth <= 0:
                    return at if self._depth == 0 else found.start()
        return None


@dataclass(frozen=True, slots=True)
class ItemsStart:
    """Where in a text the first item begins. If the array is in an object, ``within`` is its name there.

    If ``is_array`` is False, the file has one object after the other, without an array.
    """

    at: int
    within: str | None = None
    is_array: bool = True


def find_items(head: str, *, whole: bool) -> ItemsStart:
    """Return where the records begin in JSON that begins with ``head`` (all of it if ``whole``); raise Unreadable."""
    begin = _end_of_blank(head, 0)
    if head[begin : begin + 1] == "[":
        return ItemsStart(begin + 1)
    arrays, end = _arrays(head, begin + 1)
    if len(arrays) > 1:
        named = quote_names([name for name, _ in arrays])
        raise Unreadable(f"the JSON has several arrays of objects, {named}: hand in a file with one of them")
    if arrays:
        [(name, at)] = arrays
        return ItemsStart(at, name)
    if end is not None and head[_end_of_blank(head, end) :][:1] == "{":
        return ItemsStart(begin, is_array=False)
    if whole:
        raise Unreadable("the JSON is one object without an array of objects in it: an array of records is needed, or "
                         "one object per line")  # fmt: skip
    raise Unreadable("the JSON's first part has no array of objects in it: an array of records is needed, or one "
                     "object per line")  # fmt: skip


def arrays_after(tail: str) -> list[str]:
    """Return the names of the arrays of objects in ``tail``, the text of an object after one of its members."""
    return [name for name, _ in _arrays(tail, 0)[0]]


def has_text_after(tail: str, *, within: bool) -> bool:
    """Return whether text follows the JSON value. ``tail`` follows its array; ``within``: the array is in an object."""
    if not within:
        return _end_of_blank(tail, 0) < len(tail)
    end = _arrays(tail, 0)[1]
    return end is not None and _end_of_blank(tail, end) < len(tail)


def _arrays(text: str, at: int) -> tuple[list[tuple[str, int]], int | None]:
    """Return the arrays of objects among the members of the object that continues at ``at``: names and beginnings.

    Also return where the object ends; None if ``text`` ends before.
    """
    found: list[tuple[str, int]] = []
    while member := _MEMBER.match(text, at):
        if member["end"]:
            return found, member.end()
        name, begin = as_text(_or_none(member["name"])), member.end()
        if array := _OF_OBJECTS.match(text, begin):
            found.append((name, array.end()))
        end = _Nesting().end_in(text, begin)
        if end is None:
            return found, None
        at = end
    return found, None


def _or_none(text: str) -> object:
    try:
        return parse_json(text)[0]
    except ValueError:
        return None


def _end_of_blank(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    assert found is not None
    return found.end()
