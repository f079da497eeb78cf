"""What JSON may be stored and given to others: bounded in depth, finite numbers, text that Postgres holds. Pure.

Python's readers and writers of JSON, Postgres and browsers disagree about all other values. A value that only some of
them accept would break a list, an export or a batch later. The limits are those of :mod:`workers.runtime.bounds`.
"""

from collections.abc import Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from uuid import UUID

from workers.runtime.bounds import LARGEST, MOST_DEPTH, is_valid_text
from workers.runtime.refusals import Problem, quoted

_STEPS_SHOWN = 8
_PLAIN = (str, int, float, Decimal, date, time, timedelta, UUID, type(None))  # a datetime is a date, a bool an int
NUL = "no text may contain a NUL character, which Postgres cannot store"


class Unkeepable(ValueError):
    """The value is no JSON that can be stored. ``said`` is the problem: the place, the rule and the value."""

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


Path = tuple["Path", object] | None  # linked from the end, so that a step down copies nothing


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
            return f"must be nested at most {MOST_DEPTH} levels deep" if depth >= MOST_DEPTH else None
        case str():
            if "\x00" in value:
                return NUL
            return None if is_valid_text(value) else "must be text without half a character (a lone surrogate)"
        case int() | float() | Decimal():
            return None if is_number(value) else "must be a finite number within ±1e308"
        case _:
            return None if isinstance(value, _PLAIN) else "must be a value that JSON has"


def is_number(value: float | Decimal) -> bool:
    """Tell whether ``value`` is a number for everybody: finite, also as a float."""
    try:
        return abs(float(value)) <= LARGEST
    except (OverflowError, ValueError):
        return False


def _place(path: Path, name: str) -> str:
    """Return the place as ``name.member.0``, its middle left out where it is long."""
    steps: list[str] = []
    while path is not None:
        path, step = path
        steps.append(shown(str(step), 40))
    steps.append(name)
    steps.reverse()
    return ".".join(steps if len(steps) <= _STEPS_SHOWN else [*steps[:4], "…", *steps[-2:]])


def _shown(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and not is_number(value):
        return f"an integer of {value.bit_length()} bits"  # its digits are more than Python writes
    if isinstance(value, dict | list | tuple):
        return "more"
    return quoted(value)


def shown(text: str, width: int = 255) -> str:
    """Return ``text`` as any terminal and file takes it: half characters escaped, cut at ``width``."""
    return text[:width].encode("utf-8", "backslashreplace").decode()
