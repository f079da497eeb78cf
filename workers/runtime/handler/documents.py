"""The rules for JSON that is stored and given to others: limited depth, finite numbers, storable text. Pure.

Python, Postgres and browsers disagree about all other JSON values. A value that only some of them accept would break a
list, an export or a batch later. The limits are those of :mod:`workers.runtime.bounds`.
"""

from collections.abc import Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from workers.runtime.bounds import MAX_JSON_DEPTH, is_valid_text, number_problem
from workers.runtime.loaders import decode_json
from workers.runtime.refusals import Problem, quoted
from workers.runtime.undecodable import Undecodable

_STEPS_SHOWN = 8
_PLAIN = (str, int, float, Decimal, date, time, timedelta, UUID, type(None))  # a datetime is a date, a bool an int
NUL = "no text may contain a NUL character, which Postgres cannot store"


def json_value(text: str | None, *, most_bytes: int) -> Any:
    """Return the value of a document that ``runtime.readable`` returned as text, "" for one that is too large.

    If the document cannot be read, return an ``Undecodable`` with the reason.
    """
    if text is None:
        return None
    return decode_json(text) if text else Undecodable(f"its JSON has more than {most_bytes:,} bytes")


class Unkeepable(ValueError):
    """The value cannot be stored as JSON. ``said`` is the problem: the place, the rule and the value."""

    def __init__(self, said: Problem | str) -> None:
        super().__init__(str(said))
        self.said = said


def keepable(value: object, *, name: str) -> None:
    """Raise Unkeepable for the first part of ``value`` that cannot be stored as JSON. ``name`` names the whole value.

    It uses no recursion, so that a value of any depth is checked.
    """
    for path, depth, found in _walk(value, name):
        if rule := _broken_rule(found, depth):
            raise Unkeepable(_problem(_place(path, name), rule, found))


def _problem(place: str, rule: str, value: object) -> Problem | str:
    return NUL if rule is NUL else Problem(place, rule, _shown(value))


Path = tuple["Path", object] | None  # linked from the end, so that one more step copies nothing


def _walk(value: object, name: str) -> Iterator[tuple[Path, int, object]]:
    waiting: list[tuple[Path, int, object]] = [(None, 0, value)]
    while waiting:
        path, depth, found = waiting.pop()
        yield path, depth, found
        if isinstance(found, dict):
            for key, inner in found.items():
                if not isinstance(key, str):
                    raise Unkeepable(_problem(_place(path, name), "must have texts as names", key))
                if rule := _broken_rule(key, depth):
                    raise Unkeepable(_problem(f"a name in {_place(path, name)}", rule, key))
                waiting.append(((path, key), depth + 1, inner))
        elif isinstance(found, list | tuple):
            waiting += [((path, index), depth + 1, inner) for index, inner in enumerate(found)]


def _broken_rule(value: object, depth: int) -> str | None:
    """Return the rule that ``value`` breaks by itself, or None."""
    match value:
        case dict() | list() | tuple():
            return f"must be nested at most {MAX_JSON_DEPTH} levels deep" if depth >= MAX_JSON_DEPTH else None
        case str():
            if "\x00" in value:
                return NUL
            return None if is_valid_text(value) else "must be text without half a character (a lone surrogate)"
        case int() | float() | Decimal():
            return None if is_number(value) else "must be a finite number within ±1e308"
        case _:
            return None if isinstance(value, _PLAIN) else "must be a value that JSON has"


def is_number(value: float | Decimal) -> bool:
    """Tell whether every reader of JSON accepts the number ``value``: it is finite, also as a float."""
    return number_problem(value) is None


def _place(path: Path, name: str) -> str:
    """Return the place as ``name.member.0``; the middle of a long place is left out."""
    steps: list[str] = []
    while path is not None:
        path, step = path
        steps.append(shown(str(step), 40))
    steps.append(name)
    steps.reverse()
    return ".".join(steps if len(steps) <= _STEPS_SHOWN else [*steps[:4], "…", *steps[-2:]])


def _shown(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and not is_number(value):
        return f"an integer of {value.bit_length()} bits"  # Python does not write so long a number
    if isinstance(value, dict | list | tuple):
        return "more"
    return quoted(value)


def shown(text: str, width: int = 255) -> str:
    """Return ``text`` for any terminal or file: lone surrogates escaped, cut at ``width``."""
    return text[:width].encode("utf-8", "backslashreplace").decode()
