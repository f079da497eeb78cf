"""A person's own profiles, from JSON lines or CSV. All of a file is read and checked before anything is written."""

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workers.runtime.handler.naming import name_problem, nfc
from workers.runtime.refusals import Refusal, cut, quoted
from workers.scoring.profiles import NewProfile

MOST = 10_000
_NAME_CHARACTERS = 500
_FIELD_BYTES = 4 * 1024 * 1024


class _LineError(Exception):
    """What is wrong with which line: the field and the rule."""

    def __init__(self, line: int, rule: str) -> None:
        super().__init__(rule)
        self.line = line


def read(path: Path) -> list[NewProfile]:
    """Return the profiles in ``path``; raise Refusal naming the file, the line, the field and the rule.

    ``.jsonl``: an object per line with ``name`` and, as ``attributes`` or beside the name, whatever else is known.
    ``.csv``: a header with the column ``name``; the other columns are attributes, empty cells are left out.
    """
    readers = {".jsonl": _json_lines, ".ndjson": _json_lines, ".csv": _csv_rows}
    if path.suffix.lower() not in readers:
        raise Refusal(f"{path} must be a .jsonl or .csv file")
    text = _text(path)
    try:
        found = [_profile(line, values) for line, values in readers[path.suffix.lower()](text)]
    except _LineError as error:
        raise Refusal(f"{path}, line {error.line}: {error}") from None
    if not found:
        raise Refusal(f"{path} holds no profile")
    if len(found) > MOST:
        raise Refusal(f"{path} holds {len(found)} profiles, at most {MOST} are scored at once")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise Refusal(f"{path}, line {line}: must be UTF-8, got byte 0x{error.object[error.start]:02x}") from None
    except OSError as error:
        raise Refusal(f"{path} cannot be read: {error.strerror}") from None


def _json_lines(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _object(number, line)


def _object(number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        why = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise _LineError(number, f"must be JSON: {why}") from None
    if not isinstance(value, dict):
        raise _LineError(number, f"must be a JSON object, got {cut(line)}")
    attributes = value.pop("attributes", {})
    if not isinstance(attributes, dict):
        raise _LineError(number, f"field 'attributes' must be an object, got {quoted(attributes)}")
    if twice := sorted(attributes.keys() & value.keys() - {"name"}):
        raise _LineError(number, f"field {twice[0]!r} is given twice, also among the attributes")
    return {**value, "attributes": {**{key: item for key, item in value.items() if key != "name"}, **attributes}}


def _csv_rows(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(_FIELD_BYTES)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    begins = 1
    header: list[str] | None = None
    try:
        for cells in reader:
            if header is None:
                header = _header([cell.strip() for cell in cells])
            elif any(cell.strip() for cell in cells):
                yield begins, _row(begins, header, cells)
            begins = reader.line_num + 1
    except csv.Error as error:
        raise _LineError(reader.line_num or 1, f"must be CSV: {error}") from None


def _header(names: list[str]) -> list[str]:
    if "name" not in names:
        raise _LineError(1, f"the header must have the column 'name', got {cut(', '.join(names))}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise _LineError(1, f"column {twice!r} is there twice")
    return names


def _row(number: int, header: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) > len(header):
        raise _LineError(number, f"has {len(cells)} fields, the header has {len(header)}")
    row = dict(zip(header, cells, strict=False))
    name = row.pop("name", "")
    return {"name": name, "attributes": {key: cell for key, cell in row.items() if key and cell.strip()}}


def _profile(line: int, values: dict[str, Any]) -> NewProfile:
    name = values.get("name")
    if not isinstance(name, str) or not name.strip():
        raise _LineError(line, "field 'name' must be a text that is not empty" + (f", got {name!r}" if name else ""))
    if len(name) > _NAME_CHARACTERS:
        raise _LineError(line, f"field 'name' must have at most {_NAME_CHARACTERS} characters, got {len(name)}")
    attributes: dict[str, Any] = values["attributes"]
    for field, value in (("name", name), *attributes.items()):
        if _unstorable(field) or _unstorable(value):
            raise _LineError(line, f"field {quoted(field)} must not contain NUL, broken characters or NaN")
    name = nfc(" ".join(name.split()))  # of a file: a line end within a cell is a blank
    if (rule := name_problem(name, longest=_NAME_CHARACTERS)) is not None:
        raise _LineError(line, f"field 'name' {rule}, got {quoted(name)}")
    return NewProfile(name, attributes)


def _unstorable(value: object) -> bool:
    """Tell whether Postgres could not keep ``value``: NUL, half a character, a number that is none."""
    match value:
        case str():
            return "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value)
        case float():
            return not math.isfinite(value)
        case dict():
            return any(_unstorable(key) or _unstorable(item) for key, item in value.items())
        case list():
            return any(map(_unstorable, value))
        case _:
            return False
