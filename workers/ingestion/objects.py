"""One JSON object as a record: parse it within limits, read its fields by name. Pure."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from workers.ingestion.csv_records import REPLACEMENT, Damage

# Other readers of the same row have limits, too. These leave room for what they add around it.
MAX_JSON_DEPTH = 64
MAX_NUMBER_DIGITS = 300
MAX_FIELDS = 2_000
# The field ``inner`` of an object ``outer`` in the record is called ``outer.inner``.
DOT = "."
# Parts of a JSON text that may be NULs or halves of a surrogate pair.
_SUSPICIOUS = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_BAD = re.compile("[\x00\ud800-\udfff]")
_BRACKETS = re.compile(r"[\[{]")

JsonObject = dict[str, Any]


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= MAX_NUMBER_DIGITS else digits


def _fraction(digits: str) -> float | str:
    """Return the number; the text of a number beyond a double."""
    number = float(digits)
    return digits if len(digits) > MAX_NUMBER_DIGITS or abs(number) == float("inf") else number


# NaN and Infinity, which some programs write without quotes, stay text.
_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_fraction, parse_constant=str)


def parse_json(text: str, at: int = 0) -> tuple[object, int]:
    """Return the JSON value that begins at ``at`` and where it ends; raise ValueError."""
    try:
        return _DECODER.raw_decode(text, at)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def as_record(value: object, text: str) -> tuple[JsonObject, int] | Damage:
    """Return ``value``, which was parsed from ``text``, as a record, with the count of replaced characters."""
    if not isinstance(value, dict) or len(value) > MAX_FIELDS:
        return Damage.MALFORMED
    if len(_BRACKETS.findall(text)) > MAX_JSON_DEPTH and _depth(value) > MAX_JSON_DEPTH:
        return Damage.MALFORMED
    if not (_SUSPICIOUS.search(text) or _BAD.search(text)):
        return value, 0
    sound = json.dumps(value, ensure_ascii=False)
    # Both halves of a pair are one character now. Single halves and NULs are left: they are replaced.
    found = len(_BAD.findall(sound)) + sound.count("\\u0000")
    cleaned = _BAD.sub(REPLACEMENT, re.sub(r"(?<!\\)((?:\\\\)*)\\u0000", rf"\1{REPLACEMENT}", sound))
    record, _ = parse_json(cleaned)
    assert isinstance(record, dict)
    return record, found


def _depth(value: object) -> int:
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        one, depth = waiting.pop()
        deepest = max(deepest, depth)
        inside: Iterable[Any] = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        waiting += [(part, depth + 1) for part in inside if isinstance(part, (dict, list))]
    return deepest


def field_names(record: JsonObject) -> Iterator[str]:
    """Yield the names of the fields of a record; those of an inner object as ``outer.inner``."""
    for name, value in record.items():
        if isinstance(value, dict) and value:
            yield from (f"{name}{DOT}{inner}" for inner in field_names(value))
        else:
            yield name


def columns_of(records: Iterable[JsonObject]) -> tuple[str, ...]:
    """Return the names of all fields of the records, in the order of their first use."""
    found: dict[str, None] = {}
    for record in records:
        for name in field_names(record):
            if name.strip():
                found.setdefault(name)
            if len(found) >= MAX_FIELDS:
                return tuple(found)
    return tuple(found)


def field_text(record: Mapping[str, Any], name: str) -> str:
    """Return the value of this field as text; the empty text if there is none."""
    return as_text(field_value(record, name))


def field_value(record: Mapping[str, Any], name: str) -> object:
    """Return the value of this field, None if there is none."""
    if name in record:
        return record[name]
    outer, dot, inner = name.partition(DOT)
    while dot:
        if isinstance(within := record.get(outer), dict) and (found := field_value(within, inner)) is not None:
            return found
        more, dot, inner = inner.partition(DOT)
        outer = f"{outer}{DOT}{more}"
    return None


def as_text(value: object) -> str:
    """Return a JSON value as the text of a cell."""
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case _:
            return json.dumps(value, ensure_ascii=False)
