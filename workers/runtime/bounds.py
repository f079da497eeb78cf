"""The limits of payloads: their size, depth and values, the same at every door. Pure.

The tables check them too (``runtime.document``). A value that passes here also passes there, and can be read and
written again.
"""

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from workers.runtime.refusals import Problem, cut, quoted

# The size of one payload as UTF-8: its texts, its names, its numbers without exponents, two bytes per other value.
MAX_PAYLOAD_BYTES = 1024 * 1024
# Nested objects and lists. Readers of JSON stop at different depths, some at a few hundred.
MAX_JSON_DEPTH = 64
# The first words of the rule about the size.
_TOO_LARGE = "must have at most"
# Every language can hold numbers up to this.
MAX_NUMBER = 1e308
# Digits of a decimal number on each side of the point: the smallest float has 324 zeros and a few digits after them.
# Postgres writes every zero of 1e-16383: half a megabyte of such numbers becomes a gigabyte of text.
MAX_DECIMALS = 400

# A result may be larger; the table has its own bound.
MAX_RESULT_BYTES = 8 * MAX_PAYLOAD_BYTES


def payload_problem(payload: Mapping[str, Any], *, max_bytes: int = MAX_PAYLOAD_BYTES) -> Problem | None:
    """Return one problem of ``payload`` that keeps it from being stored; None if it has none.

    The check stops at the limits, so it also ends for a payload that contains itself.
    """
    stack: list[tuple[Any, int, Any]] = [(payload, 0, None)]
    size = 0
    while stack:
        item, depth, path = stack.pop()
        inside = _inside(item)
        if inside is None:
            if (rule := value_problem(item)) is not None:
                return _problem(path, rule, item)
            size += _bytes_of(item)
        elif depth > MAX_JSON_DEPTH:
            return _too_deep(path)
        else:
            size += 2  # its brackets; so a payload that contains itself reaches the limit
            for name, value in inside:
                if isinstance(name, str) and (rule := text_problem(name)) is not None:
                    return _problem(path, f"has a name that {rule}", name)
                size += _bytes_of(name) if isinstance(name, str) else 0
                stack.append((value, depth + 1, (path, name)))
        if size > max_bytes:
            return Problem("payload", f"{_TOO_LARGE} {max_bytes:,} bytes", "more")
    return None


def values_problem(values: Mapping[str, Any]) -> Problem | None:
    """Return one problem of a result, like :func:`payload_problem`; None if it is only too large."""
    problem = payload_problem(values, max_bytes=MAX_RESULT_BYTES)
    return None if problem is not None and problem.rule.startswith(_TOO_LARGE) else problem


def _inside(item: object) -> Iterable[tuple[Any, Any]] | None:
    """Return the values inside ``item``, by name or index; None if it is a single value."""
    if isinstance(item, Mapping):
        return item.items()
    return enumerate(item) if isinstance(item, (list, tuple, set, frozenset)) else None


def _bytes_of(item: object) -> int:
    match item:
        case str():
            return 2 + (len(item) if item.isascii() else len(item.encode()))
        case bool() | None:
            return 2
        case int():
            return 3 + item.bit_length() * 3 // 10
        case float():
            return 2 + _digits_of(item)
        case Decimal():
            return 2 + len(item.as_tuple().digits) + abs(_exponent_of(item))
        case _:
            return 2


def _digits_of(number: float) -> int:
    """Return how many characters Postgres writes for ``number``, without an exponent: 326 for 5e-324."""
    shown = repr(number)
    mantissa, _, exponent = shown.partition("e")
    return len(mantissa) + abs(int(exponent)) if exponent else len(shown)


def _exponent_of(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    return exponent if isinstance(exponent, int) else 0


def value_problem(value: object) -> str | None:
    """Return the rule that a single value breaks; None if it can be stored."""
    match value:
        case str():
            return text_problem(value)
        case bool():
            return None
        case int() | float() | Decimal():
            return number_problem(value)
        case bytes() | bytearray() | memoryview():
            return "must be text, not bytes"
        case _:
            return None


def text_problem(text: str) -> str | None:
    """Return the rule that ``text`` breaks; None if Postgres can store it."""
    if "\x00" in text:
        return "must not contain a NUL character, which Postgres cannot store"
    return None if is_valid_text(text) else "must be valid Unicode, without half a surrogate pair"


def is_valid_text(text: str) -> bool:
    """Tell whether ``text`` has no lone half of a surrogate pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def number_problem(number: int | float | Decimal) -> str | None:  # noqa: PYI041 - an int may be larger than any float
    """Return the rule that ``number`` breaks; None if every reader of JSON reads the same number."""
    if not _is_finite(number):
        return "must be a finite number"
    if isinstance(number, Decimal) and (-_exponent_of(number) > MAX_DECIMALS or number.adjusted() > MAX_DECIMALS):
        return f"must have at most {MAX_DECIMALS} digits before and after the point"
    return None if -MAX_NUMBER <= number <= MAX_NUMBER else "must be a number within ±1e308"


def _is_finite(number: int | float | Decimal) -> bool:  # noqa: PYI041 - as above
    match number:
        case Decimal():
            return number.is_finite()
        case float():
            return math.isfinite(number)
        case _:
            return True


_DIGITS = bytes(ord("1") if byte in b"0123456789" else ord(".") for byte in range(256))
_LONG = b"1" * 309


def has_long_number(content: bytes) -> bool:
    """Tell whether JSON may have a number above 1e308, or a text with as many digits. Takes 1 ns per byte."""
    return _LONG in content.translate(_DIGITS)


def time_problem(time: datetime) -> str | None:
    """Return the rule that ``time`` breaks; None if the database can store it as UTC."""
    try:
        (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        return "must be before the year 10000" if time.year > 1 else "must not be before the year 1"
    return None


def _problem(path: Any, rule: str, value: Any) -> Problem:
    huge = isinstance(value, int) and abs(value) > MAX_NUMBER  # Python may refuse to write it
    shown = "one of more than 308 digits" if huge else quoted(value)
    return Problem(_place(path), rule, shown)


def _too_deep(path: Any) -> Problem:
    steps = list(_steps(path))
    return Problem(steps[-1] if steps else "payload", f"must be nested at most {MAX_JSON_DEPTH} deep", "more")


def _place(path: Any) -> str:
    return ".".join(reversed(list(_steps(path)))) or "payload"


def _steps(path: Any) -> Iterable[str]:
    """Yield the names and indexes that lead to a value, the last one first, each short and printable."""
    while path is not None:
        path, step = path
        text = str(step)
        yield cut(text if text.isprintable() else ascii(text), 40)
