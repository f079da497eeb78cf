"""Read many jobs from the body of one request, as it arrives: a JSON array, or one JSON object per line (NDJSON).

At most one item and one chunk of the body are in memory. The items are kept in a file until the body is complete: so a
slow client holds no transaction.
"""

import codecs
import json
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import Any

from gateway.bodies import MAX_JSON_BYTES, check_inside
from gateway.problems import HttpProblem
from workers.runtime.json_text import STRICT, JsonTextError, read_json
from workers.runtime.refusals import Problem

# This much of the items is kept in memory, the rest in a file.
MEMORY_BYTES = 4 * 1024 * 1024
ITEMS_PER_LINE = 1_000
_BLANK = " \t\r\n"


class BrokenItem(Exception):
    """One line is not JSON. The lines after it can be read."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


async def read_lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[Any]:
    """Yield the value of each line, a BrokenItem for a line that is not JSON; skip blank lines."""
    held = b""
    async for chunk in chunks:
        *lines, held = (held + chunk).split(b"\n") if b"\n" in chunk else [held + chunk]
        for line in lines:
            if line.strip():
                yield _read_line(line)
        if len(held) > MAX_JSON_BYTES:
            raise _too_large()
    if held.strip():
        yield _read_line(held)


def _read_line(line: bytes) -> Any:
    if len(line) > MAX_JSON_BYTES:
        return BrokenItem(f"must have at most {MAX_JSON_BYTES:,} bytes")
    try:
        value = read_json(line)
        check_inside(line, value)
    except JsonTextError as error:
        return BrokenItem(str(error))
    except HttpProblem as problem:
        return BrokenItem(problem.errors[0].rule)
    return value


async def read_array(chunks: AsyncIterable[bytes]) -> AsyncIterator[Any]:
    """Yield the items of a JSON array of objects. Raise a problem at the first thing that is not JSON."""
    reader = _ArrayReader()
    async for chunk in chunks:
        reader.add(chunk)
        for item in reader.read():
            yield item
    for item in reader.finish():
        yield item


class _ArrayReader:
    """Reads the objects of an array from pieces of its text."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._read_items = 0
        self._state = "start"  # then "first" (an item or the end), "item", "comma" (or the end), "end"
        self._try_at = 0  # an item that was not complete is tried again when the text has doubled

    def add(self, chunk: bytes, *, final: bool = False) -> None:
        try:
            self._text += self._decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            raise self._refuse(f"is not UTF-8: {error.reason}") from None

    def finish(self) -> Iterator[Any]:
        self.add(b"", final=True)
        self._try_at = 0
        yield from self.read(final=True)
        if self._state != "end":
            raise self._refuse("is not JSON: the array does not end")

    def read(self, *, final: bool = False) -> Iterator[Any]:
        """Yield the items that are complete."""
        at, text = 0, self._text
        while True:
            at = _skip_blanks(text, at)
            if at == len(text):
                break
            if self._state in {"first", "item"} and text[at] == "{":
                found = self._item(text, at, final=final)
                if found is None:
                    break
                item, at = found
                yield item
            else:
                self._take(text[at])
                at += 1
        self._text = text[at:]

    def _take(self, character: str) -> None:
        """Take one character of the array itself."""
        match self._state, character:
            case "start", "[":
                self._state = "first"
            case (("first" | "comma"), "]"):
                self._state = "end"
            case "comma", ",":
                self._state = "item"
            case "start", _:
                raise self._refuse("must be an array of objects")
            case _:
                raise self._refuse(f"is not a JSON array of objects: {character!r} after {self._read_items} items")

    def _item(self, text: str, at: int, *, final: bool) -> tuple[Any, int] | None:
        """Return the object that begins at ``at`` and where it ends; None if it is not complete."""
        if len(text) - at < self._try_at:
            return None
        try:
            value, end = STRICT.raw_decode(text, at)
            check_inside(text[at:end].encode(), value)
        except JsonTextError as error:
            raise self._refuse(str(error)) from None
        except json.JSONDecodeError as error:
            if final or len(text) - at > MAX_JSON_BYTES:
                raise self._refuse(f"is not JSON: {error.msg}") from None
            self._try_at = 2 * (len(text) - at)
            return None
        except (ValueError, RecursionError):
            raise self._refuse("has a number with too many digits, or is nested too deeply") from None
        self._try_at, self._state = 0, "comma"
        self._read_items += 1
        return value, end

    def _refuse(self, rule: str) -> HttpProblem:
        problem = Problem("body", rule, None, f"look at item {self._read_items} (counted from 0)")
        return HttpProblem("malformed", str(problem), errors=[problem])


def _skip_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANK:
        at += 1
    return at


def _too_large() -> HttpProblem:
    problem = Problem("body", f"must have at most {MAX_JSON_BYTES:,} bytes per line", "more")
    return HttpProblem("too-large", str(problem), errors=[problem], headers={"Connection": "close"})


class ItemFile:
    """Items that wait in a file: first all are added, then they are read, once."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES)  # noqa: SIM115 - closed by close()
        self._held: list[Any] = []
        self.count = 0

    def add(self, item: Any) -> None:
        self._held.append(item)
        self.count += 1
        if len(self._held) == ITEMS_PER_LINE:
            self._write()

    def read(self) -> Iterator[list[Any]]:
        """Yield the items, up to ITEMS_PER_LINE at a time."""
        if self._held:
            self._write()
        self._file.seek(0)
        for line in self._file:
            yield json.loads(line)

    def close(self) -> None:
        self._file.close()

    def _write(self) -> None:
        self._file.write(json.dumps(self._held).encode() + b"\n")
        self._held = []
