"""Read a file of profiles, JSON lines or CSV. The whole file is checked before anything is written."""

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workers.runtime.handler.naming import name_problem, nfc
from workers.runtime.json_text import JsonTextError, read_json
from workers.runtime.refusals import Refusal, cut, quoted
from workers.scoring.profiles import NewProfile

MAX_PROFILES = 10_000
_MAX_NAME_CHARACTERS = 500
_MAX_FIELD_BYTES = 4 * 1024 * 1024


class _LineError(Exception):
    """A line breaks a rule: its number, and the field and the rule."""

    def __init__(self, line: int, rule: str) -> None:
        super().__init__(rule)
        self.line = line


def read_profiles(path: Path) -> list[NewProfile]:
    """Return the profiles in ``path``; raise Refusal with the file, the line, the field and the rule.

    ``.jsonl``: one object per line with ``name``. All other keys, and those of ``attributes``, are attributes.
    ``.csv``: a header with the column ``name``. The other columns are attributes; empty cells are left out.
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
        raise Refusal(f"{path} has no profile")
    if len(found) > MAX_PROFILES:
        raise Refusal(f"{path} must have at most {MAX_PROFILES} profiles, got {len(found)}")
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
        value = read_json(line.strip())
    except JsonTextError as error:
        raise _LineError(number, str(error)) from None
    if not isinstance(value, dict):
        raise _LineError(number, f"must be a JSON object, got {cut(line)}")
    attributes = value.pop("attributes", {})
    if not isinstance(attributes, dict):
        raise _LineError(number, f"field 'attributes' must be an object, got {quoted(attributes)}")
    if twice := sorted(attributes.keys() & value.keys() - {"name"}):
        raise _LineError(number, f"field {twice[0]!r} is given twice, also in the attributes")
    return {**value, "attributes": {**{key: item for key, item in value.items() if key != "name"}, **attributes}}


def _csv_rows(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(_MAX_FIELD_BYTES)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    first_line = 1
    header: list[str] | None = None
    try:
        for cells in reader:
            if header is None:
                header = _header([cell.strip() for cell in cells])
            elif any(cell.strip() for cell in cells):
                yield first_line, _row(first_line, header, cells)
            first_line = reader.line_num + 1
    except csv.Error as error:
        raise _LineError(reader.line_num or 1, f"must be CSV: {error}") from None


def _header(names: list[str]) -> list[str]:
    if "name" not in names:
        raise _LineError(1, f"the header must have the column 'name', got {cut(', '.join(names))}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise _LineError(1, f"column {twice!r} is given twice")
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
    if len(name) > _MAX_NAME_CHARACTERS:
        raise _LineError(line, f"field 'name' must have at most {_MAX_NAME_CHARACTERS} characters, got {len(name)}")
    attributes: dict[str, Any] = values["attributes"]
    for field, value in (("name", name), *attributes.items()):
        if _unstorable(field) or _unstorable(value):
            raise _LineError(line, f"field {quoted(field)} must not contain NUL, broken characters or NaN")
    name = nfc(" ".join(name.split()))  # a line break within a cell becomes a blank
    if (rule := name_problem(name, longest=_MAX_NAME_CHARACTERS)) is not None:
        raise _LineError(line, f"field 'name' {rule}, got {quoted(name)}")
    return NewProfile(name, attributes)


def _unstorable(value: object) -> bool:
    """Return whether Postgres cannot store ``value``: NUL, half of a surrogate pair, NaN or an infinite number."""
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
