"""Errors that a person or a client reads: what is refused, which rule says so, and what to do instead.

A use-case raises a :class:`Refusal`. The doors decide nothing: the exit code of a command and the status of an HTTP
answer follow from its kind. Light to import, because every start of the command line imports it.
"""

import re
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:
    from pydantic import ValidationError

SHOWN_CHARACTERS = 80
# `Input should be`, `String should have`, `List should have`.
_SHOULD = re.compile(r"^(?:[\w' ]+ )?should ")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Kind(StrEnum):
    """What sort of refusal it is; the doors translate it."""

    INVALID = "invalid"  # what was given breaks a rule
    NOT_FOUND = "not_found"  # nothing has that name or id
    CONFLICT = "conflict"  # the state of the thing does not allow it, or somebody else was faster
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
    """The use-case does not do what was asked. ``str()`` is one line for a person.

    It says a line, or the problem where one value is to blame: then ``problem`` has field, rule, value and remedy. A
    subclass sets its own ``kind``.
    """

    kind: ClassVar[Kind] = Kind.INVALID

    def __init__(self, said: "str | Problem", *, remedy: str | None = None) -> None:
        self.problem = said if isinstance(said, Problem) else None
        self.remedy = remedy or (self.problem.remedy if self.problem else None)
        super().__init__(f"{said}; {remedy}" if remedy else str(said))

    def __str__(self) -> str:
        return str(self.args[0])  # a LookupError among the bases would quote it


class NotFound(Refusal, LookupError):
    """Nothing has that name or id, or the actor may not see it."""

    kind = Kind.NOT_FOUND


class Conflict(Refusal):
    """The state of the thing does not allow it."""

    kind = Kind.CONFLICT


class Forbidden(Refusal):
    """The actor may not do it."""

    kind = Kind.FORBIDDEN


class UnavailableServer(Refusal):
    """A server that is needed does not answer."""

    kind = Kind.UNAVAILABLE


class Failed(Refusal):
    """It was tried and did not succeed."""

    kind = Kind.FAILED


def cut(text: str, width: int = SHOWN_CHARACTERS) -> str:
    """Return ``text`` in at most ``width`` characters; a longer one ends in …."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def printable(text: str) -> str:
    """Return ``text`` without the control characters that a terminal obeys: a file or a model may contain them."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def quoted(value: object, width: int = SHOWN_CHARACTERS) -> str:
    """Return ``value`` as an error quotes it."""
    return "nothing" if value is None else cut(repr(value), width)


def without_value(reason: str) -> str:
    """Return the line of a refusal without the value that it quotes, for places that may show no payload."""
    return reason.partition(", got ")[0]


def rule_of(message: str) -> str:
    """Return a message of pydantic as the rule that follows a field's name: ``must …``. A rule of ours is kept."""
    rule = message.removeprefix("Value error, ")
    rule = f"{rule[:1].lower()}{rule[1:]}"
    if message.startswith("Value error, "):
        return rule
    rule = _SHOULD.sub("must ", rule, count=1).partition(" after validation")[0]
    return rule if rule.startswith(("must ", "is ")) else f"must be valid: {rule}"


def first_problem(
    error: "ValidationError", *, whole: str, unknown: str = "is not a field", prefix: str = ""
) -> Problem:
    """Return the broken rule of a validation that tells most: an unknown field, else the first one.

    A field that is missing is often one that was misspelt, so that the unknown one is named, with the field meant.
    ``prefix`` leads the field's path. ``whole`` is named where no field is to blame. ``unknown`` is the rule that a
    field breaks which must not be there.
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
