"""How large and how deep a payload may be, and what it may hold: the same at every door. Pure.

The tables say it again (``runtime.document``): what passed here must pass there, be read again and be written again.
"""

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from workers.runtime.refusals import Problem, cut, quoted

# Of one payload, as UTF-8: its texts, its names, its numbers without exponents, and a byte or two for all else.
MOST_BYTES = 1024 * 1024
# Objects and lists within each other. Readers of JSON give up at some hundred, and not all at the same.
MOST_DEPTH = 64
# How the rule of a size begins.
_TOO_LARGE = "must have at most"
# What single numbers of every language hold.
LARGEST = 1e308
# Of a decimal number, on each side of the point: the smallest float has 324 zeros, and a few digits behind them.
# Postgres writes each zero of 1e-16383, so that half a megabyte of such numbers is a gigabyte of text.
MOST_DECIMALS = 400

# A result may be larger; the table has its own bound.
MOST_RESULT_BYTES = 8 * MOST_BYTES


def payload_problem(payload: Mapping[str, Any], *, most_bytes: int = MOST_BYTES) -> Problem | None:
    """Return one thing in ``payload`` that cannot be kept; None where all can.

    Walks no further than the bounds, whatever it is given: also what holds itself.
    """
    stack: list[tuple[Any, int, Any]] = [(payload, 0, None)]
    size = 0
    while stack:
        item, depth, path = stack.pop()
        inside = _inside(item)
        if inside is None:
            if (rule := value_problem(item)) is not None:
                return _said(path, rule, item)
            size += _bytes_of(item)
        elif depth > MOST_DEPTH:
            return _too_deep(path)
        else:
            size += 2  # its brackets: what holds itself comes to an end too
            for name, value in inside:
                if isinstance(name, str) and (rule := text_problem(name)) is not None:
                    return _said(path, f"has a name that {rule}", name)
                size += _bytes_of(name) if isinstance(name, str) else 0
                stack.append((value, depth + 1, (path, name)))
        if size > most_bytes:
            return Problem("payload", f"{_TOO_LARGE} {most_bytes:,} bytes", "more")
    return None


def values_problem(values: Mapping[str, Any]) -> Problem | None:
    """Return what of a result cannot be kept, as :func:`payload_problem` does; None also where it is merely large."""
    problem = payload_problem(values, most_bytes=MOST_RESULT_BYTES)
    return None if problem is not None and problem.rule.startswith(_TOO_LARGE) else problem


def _inside(item: object) -> Iterable[tuple[Any, Any]] | None:
    """Return what ``item`` holds, by name or place; None for what holds nothing."""
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
    """Return how many characters Postgres writes for ``number``, which has no exponents: 5e-324 has 326."""
    shown = repr(number)
    mantissa, _, exponent = shown.partition("e")
    return len(mantissa) + abs(int(exponent)) if exponent else len(shown)


def _exponent_of(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    return exponent if isinstance(exponent, int) else 0


def value_problem(value: object) -> str | None:
    """Return the rule that a single value breaks; None where it can be kept."""
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
    """Return the rule that ``text`` breaks; None where Postgres can store it."""
    if "\x00" in text:
        return "must not contain a NUL character, which Postgres cannot store"
    return None if is_valid_text(text) else "must be valid Unicode, without half a surrogate pair"


def is_valid_text(text: str) -> bool:
    """Tell whether ``text`` has no half of a surrogate pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def number_problem(number: int | float | Decimal) -> str | None:  # noqa: PYI041 - an int may be larger than any float
    """Return the rule that ``number`` breaks; None where it is a number that every reader takes for the same."""
    if not _is_finite(number):
        return "must be a finite number"
    if isinstance(number, Decimal) and (-_exponent_of(number) > MOST_DECIMALS or number.adjusted() > MOST_DECIMALS):
        return f"must have at most {MOST_DECIMALS} digits before and after the point"
    return None if -LARGEST <= number <= LARGEST else "must be a number within ±1e308"


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
    """Tell whether JSON may hold a number above 1e308; a text of as many digits looks like one. A nanosecond a byte."""
    return _LONG in content.translate(_DIGITS)


def time_problem(time: datetime) -> str | None:
    """Return the rule that ``time`` breaks; None where the database's own clock can show it."""
    try:
        (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        return "must be before the year 10000" if time.year > 1 else "must not be before the year 1"
    return None


def _said(path: Any, rule: str, value: Any) -> Problem:
    huge = isinstance(value, int) and abs(value) > LARGEST  # Python itself may refuse to write it
    shown = "one of more than 308 digits" if huge else quoted(value)
    return Problem(_named(path), rule, shown)


def _too_deep(path: Any) -> Problem:
    steps = list(_steps(path))
    return Problem(steps[-1] if steps else "payload", f"must be nested at most {MOST_DEPTH} deep", "more")


def _named(path: Any) -> str:
    return ".".join(reversed(list(_steps(path)))) or "payload"


def _steps(path: Any) -> Iterable[str]:
    """Yield the names and places that lead to a value, the last one first, as one line can have them."""
    while path is not None:
        path, step = path
        text = str(step)
        yield cut(text if text.isprintable() else ascii(text), 40)
