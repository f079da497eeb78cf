"""How an error is worded: the field, the rule and the value, in one line and never with the whole of a long one."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

SHOWN = 80


def cut(text: str, width: int = SHOWN) -> str:
    """Return ``text`` in at most ``width`` characters, the last of them … where it is longer."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def quoted(value: object, width: int = SHOWN) -> str:
    """Return ``value`` as an error quotes it."""
    return "nothing" if value is None else cut(repr(value), width)


def without_value(reason: str) -> str:
    """Return a refusal without the value that it quotes, for where nothing of a payload may be shown."""
    return reason.partition(", got ")[0]


def refusal(error: "ValidationError", *, whole: str, unknown: str = "is not a field", prefix: str = "") -> str:
    """Return the first thing wrong, as ``field rule, got value``.

    ``prefix`` leads the field's path; ``whole`` is what is named where no field is to blame; ``unknown`` says the rule
    that a field broke which should not be there.
    """
    first = error.errors(include_url=False)[0]
    path = ".".join(map(str, first["loc"]))
    field = f"{prefix}{path}" if path else whole
    if first["type"] == "missing":
        return f"{field} is required, got nothing"
    rule = first["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("String ")
    rule = unknown if first["type"] == "extra_forbidden" else f"{rule[:1].lower()}{rule[1:]}"
    return f"{field} {rule}" if ", got " in rule else f"{field} {rule}, got {quoted(first['input'])}"
