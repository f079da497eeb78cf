"""Errors that a person or a client reads: what is refused, by which rule, and the remedy.

A use-case raises a :class:`Refusal`. The doors decide nothing: the exit code of a command and the status of an HTTP
answer follow from its kind. This module imports little, because every start of the command line imports it.
"""

import re
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:
    from pydantic import ValidationError

MAX_SHOWN_CHARACTERS = 80
# `Input should be`, `String should have`, `List should have`.
_SHOULD = re.compile(r"^(?:[\w' ]+ )?should ")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Kind(StrEnum):
    """The kind of a refusal; the doors translate it."""

    INVALID = "invalid"  # the input breaks a rule
    NOT_FOUND = "not_found"  # nothing has that name or id
    CONFLICT = "conflict"  # the object's state does not allow it, or another change came first
    FORBIDDEN = "forbidden"  # the actor may not do it
    TOO_MANY = "too_many"  # a limit is reached; a later try may succeed
    UNAVAILABLE = "unavailable"  # a server that is needed does not answer
    FAILED = "failed"  # it was tried and did not succeed


class Problem(NamedTuple):
    """One broken rule. ``str()`` is the line that a person reads: ``field rule, got value; remedy``."""

    field: str
    rule: str
    value: str | None = None
    remedy: str | None = None

    def __str__(self) -> str:
        got = f", got {self.value}" if self.value is not None and ", got " not in self.rule else ""
        return f"{self.field} {self.rule}{got}" + (f"; {self.remedy}" if self.remedy else "")


class Refusal(Exception):
    """The use-case refuses the request. ``str()`` is one line for a person.

    ``message`` is a line, or a Problem if one value is wrong: then ``problem`` has field, rule, value and remedy. A
    subclass sets its own ``kind``.
    """

    kind: ClassVar[Kind] = Kind.INVALID

    def __init__(self, message: "str | Problem", *, remedy: str | None = None) -> None:
        self.problem = message if isinstance(message, Problem) else None
        self.remedy = remedy or (self.problem.remedy if self.problem else None)
        super().__init__(f"{message}; {remedy}" if remedy else str(message))

    def __str__(self) -> str:
        return str(self.args[0])  # a LookupError among the bases would add quotes


class NotFound(Refusal, LookupError):
    """Nothing has that name or id, or the actor may not see it."""

    kind = Kind.NOT_FOUND


class Conflict(Refusal):
    """The object's state does not allow it."""

    kind = Kind.CONFLICT


class StaleVersion(Conflict):
    """The object has changed since the caller looked at it. The message names both versions."""


class Forbidden(Refusal):
    """The actor may not do it."""

    kind = Kind.FORBIDDEN


class UnavailableServer(Refusal):
    """A server that is needed does not answer."""

    kind = Kind.UNAVAILABLE


class Failed(Refusal):
    """It was tried and did not succeed."""

    kind = Kind.FAILED


def cut(text: str, width: int = MAX_SHOWN_CHARACTERS) -> str:
    """Return ``text`` in at most ``width`` characters; a longer text is cut and ends in …."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def printable(text: str) -> str:
    """Return ``text`` without terminal control characters, which a file or a model's answer may contain."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def quoted(value: object, width: int = MAX_SHOWN_CHARACTERS) -> str:
    """Return ``value`` as an error quotes it."""
    return "nothing" if value is None else cut(repr(value), width)


def without_value(reason: str) -> str:
    """Return the line of a refusal without the quoted value, for places that must not show a payload."""
    return reason.partition(", got ")[0]


def rule_of(message: str) -> str:
    """Return a message of pydantic as a rule to follow a field's name: ``must …``. Our own rules are not changed."""
    rule = message.removeprefix("Value error, ")
    rule = f"{rule[:1].lower()}{rule[1:]}"
    if message.startswith("Value error, "):
        return rule
    rule = _SHOULD.sub("must ", rule, count=1).partition(" after validation")[0]
    return rule if rule.startswith(("must ", "is ")) else f"must be valid: {rule}"


def first_problem(
    error: "ValidationError", *, whole: str, unknown: str = "is not a field", prefix: str = ""
) -> Problem:
    """Return the most helpful problem of a failed validation: an unknown field, else the first problem.

    A missing field was often misspelt: then the unknown field is named, with the field that was probably meant.
    ``prefix`` comes before the field's path. ``whole`` is named if no single field is wrong. ``unknown`` is the rule
    for a field that does not exist.
    """
    errors = error.errors(include_url=False)
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    path = ".".join(map(str, first["loc"]))
    field = f"{prefix}{path}" if path else whole
    if first["type"] == "missing":
        return Problem(field, "is required", "nothing")
    rule = unknown if first["type"] == "extra_forbidden" else rule_of(first["msg"])
    missing = [
        str(one["loc"][-1]) for one in errors if one["type"] == "missing" and one["loc"][:-1] == first["loc"][:-1]
    ]
    meant = _nearest(str(first["loc"][-1]), missing) if first["type"] == "extra_forbidden" else None
    return Problem(field, rule, quoted(first["input"]), f"did you mean {meant}?" if meant else None)


def _nearest(name: str, known: list[str]) -> str | None:
    """Return the name that was probably meant."""
    from difflib import get_close_matches  # noqa: PLC0415 - few starts refuse a field

    return next(iter(get_close_matches(name, known, n=1)), None)
