"""One JSON object as a record: parsed within bounds, looked into by the names of its fields, kept as it is. Pure."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from workers.ingestion.csv_records import REPLACEMENT, Damage

# What other readers of the same row can bear, with room for what they put around it.
MOST_DEPTH = 64
MOST_DIGITS = 300
MOST_FIELDS = 2_000
# A field of an object inside of the record is called by both names.
DOT = "."
# Parts of a JSON text that may be NULs or halves of a character.
_SUSPICIOUS = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_BAD = re.compile("[\x00\ud800-\udfff]")
_BRACKETS = re.compile(r"[\[{]")

Object = dict[str, Any]


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= MOST_DIGITS else digits


def _fraction(digits: str) -> float | str:
    """Return a number that JSON can hold again; one beyond a double stays text."""
    number = float(digits)
    return digits if len(digits) > MOST_DIGITS or abs(number) == float("inf") else number


# "NaN" and "Infinity", which some writers leave without quotes, stay text.
_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_fraction, parse_constant=str)


def parse(text: str, at: int = 0) -> tuple[object, int]:
    """Return the JSON value that begins at ``at`` and where it ends; raise ValueError."""
    try:
        return _DECODER.raw_decode(text, at)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def as_record(value: object, text: str) -> tuple[Object, int] | Damage:
    """Return ``value``, parsed of ``text``, as a record, with how many of its characters had to be replaced."""
    if not isinstance(value, dict) or len(value) > MOST_FIELDS:
        return Damage.MALFORMED
    if len(_BRACKETS.findall(text)) > MOST_DEPTH and _depth(value) > MOST_DEPTH:
        return Damage.MALFORMED
    if not (_SUSPICIOUS.search(text) or _BAD.search(text)):
        return value, 0
    sound = json.dumps(value, ensure_ascii=False)
    # Two halves that belong together are one character by now; what is left of them, and of NULs, is damage.
    found = len(_BAD.findall(sound)) + sound.count("\\u0000")
    cleaned = _BAD.sub(REPLACEMENT, re.sub(r"(?<!\\)((?:\\\\)*)\\u0000", rf"\1{REPLACEMENT}", sound))
    record, _ = parse(cleaned)
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


def names(record: Object) -> Iterator[str]:
    """Yield the fields of a record by name, those of an object inside as ``outer.inner``."""
    for name, value in record.items():
        if isinstance(value, dict) and value:
            yield from (f"{name}{DOT}{inner}" for inner in names(value))
        else:
            yield name


def columns_of(records: Iterable[Object]) -> tuple[str, ...]:
    """Return the names of all fields of the records, in the order in which they first come."""
    found: dict[str, None] = {}
    for record in records:
        for name in names(record):
            if name.strip():
                found.setdefault(name)
            if len(found) >= MOST_FIELDS:
                return tuple(found)
    return tuple(found)


def text_of(record: Mapping[str, Any], name: str) -> str:
    """Return what a record has under this name as text; the empty text where it has nothing."""
    return as_text(value_of(record, name))


def value_of(record: Mapping[str, Any], name: str) -> object:
    """Return what a record has under this name, None where it has nothing."""
    if name in record:
        return record[name]
    outer, dot, inner = name.partition(DOT)
    while dot:
        if isinstance(within := record.get(outer), dict) and (found := value_of(within, inner)) is not None:
            return found
        more, dot, inner = inner.partition(DOT)
        outer = f"{outer}{DOT}{more}"
    return None


def as_text(value: object) -> str:
    """Return a JSON value as a cell of a table would have it."""
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case _:
            return json.dumps(value, ensure_ascii=False)
