"""Look up a model's quotes in the subject that it judged: a model may quote what is not there. Pure."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

MAX_DEPTH = 64

_NO_WORD = re.compile(r"[\W_]+")
_LEFT_OUT = re.compile(r"\[?(?:…|\.\.\.)\]?")
_INDEX = re.compile(r"\[\d*\]")
_PLACE = re.compile(r"\s*[\"'`“”]?([^:=\"'`“”]{1,200})[\"'`“”]?\s*[:=]\s*(.*)", re.DOTALL)


class Checked(NamedTuple):
    """Quotes that are in the subject, and quotes that are not."""

    found: list[str]
    unverified: list[str]


class SubjectText:
    """The text of a subject: its values, the names of its fields, and the paths to them.

    Only letters and digits are compared, without regard to case: models change blanks, quotes and punctuation, leave
    out what is in between (``…``), and put a field's name before its text.
    """

    def __init__(self, name: str, content: Any) -> None:
        self._name = name
        self._content = content

    def check(self, quotes: Iterable[str]) -> Checked:
        """Divide ``quotes`` into those that are in the subject and those that are not. Empty ones are left out."""
        checked = Checked([], [])
        for quote in quotes:
            if _words(quote):
                (checked.found if self.has(quote) else checked.unverified).append(quote)
        return checked

    def has(self, quote: str) -> bool:
        """Return whether ``quote`` is in the subject, or names one of its fields."""
        if self._names_field(quote) or self._holds(quote):
            return True
        place = _PLACE.fullmatch(quote)
        return place is not None and self._names_field(place[1]) and self._holds(place[2])

    def _names_field(self, quote: str) -> bool:
        return _words(_INDEX.sub("", quote)) in self._fields

    def _holds(self, quote: str) -> bool:
        parts = [words for part in _LEFT_OUT.split(quote) if (words := _words(part))]
        return bool(parts) and all(words in self._text for words in parts)

    @cached_property
    def _text(self) -> str:
        return _words(" ".join([self._name, *_lines(self._content)]))

    @cached_property
    def _fields(self) -> frozenset[str]:
        return frozenset(_words(path) for path in _paths(self._content)) | {"name", "attributes"}


class WithQuotes(Protocol):
    """A criterion's result with the quotes that are not in the subject."""

    @property
    def name(self) -> str: ...
    @property
    def unverified(self) -> Sequence[str]: ...


def unverified_flags(results: Iterable[WithQuotes]) -> list[str]:
    """Return a flag for each criterion that has a quote which is not in the subject."""
    return [f"unverified evidence: {one.name}" for one in results if one.unverified]


def _words(text: str) -> str:
    return " ".join(_NO_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).split())


def _lines(value: Any, name: str = "", depth: int = MAX_DEPTH) -> Iterator[str]:
    """Yield every value as text, after the name of its field."""
    match value:
        case Mapping() | list() | tuple() if depth == 0:
            return
        case Mapping():
            for key, item in value.items():
                yield from _lines(item, str(key), depth - 1)
        case list() | tuple():
            yield name
            for item in value:
                yield from _lines(item, "", depth - 1)
        case bool() | None:
            yield f"{name} {'null' if value is None else str(value).lower()}"
        case _:
            yield f"{name} {value}"


def _paths(value: Any, path: str = "", depth: int = MAX_DEPTH) -> Iterator[str]:
    """Yield every field's own name, and the path to it without the places in lists."""
    match value:
        case Mapping() | list() | tuple() if depth == 0:
            return
        case Mapping():
            for key, item in value.items():
                inner = f"{path}.{key}" if path else str(key)
                yield str(key)
                yield inner
                yield from _paths(item, inner, depth - 1)
        case list() | tuple():
            for item in value:
                yield from _paths(item, path, depth - 1)
