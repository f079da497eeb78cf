"""The options for reading a file, for what cannot be detected from the file itself. Pure."""

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from workers.runtime.refusals import Problem, Refusal, quoted

MAX_SKIPPED_ROWS = 10_000
_FIELDS = ("encoding", "delimiter", "quote", "skip_rows")
_DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|", "space": " ", "colon": ":"}
# Files that are called by these names often use the larger encoding.
_SUPERSETS = {
    "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "cp950",
    "utf-8": "utf-8-sig",
}  # fmt: skip
# Python calls these text encodings, but no file uses them.
_NO_FILE = {"idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape", "mbcs", "oem"}
NO_QUOTE = "none"


class InvalidOption(Refusal, ValueError):
    """An option breaks a rule; the problem names the option, the rule and the value."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """The options for reading a file; None means not given. If ``quote`` is empty, nothing is quoted."""

    encoding: str | None = None
    delimiter: str | None = None
    quote: str | None = None
    skip_rows: int = 0

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Return the options in ``given``; raise InvalidOption with the field, the rule and the value."""
        for field in given:
            if field not in _FIELDS:
                raise InvalidOption(f"options have no field {quoted(field)}; its fields: {', '.join(_FIELDS)}")
        return cls(
            encoding=None if given.get("encoding") is None else encoding_named(given["encoding"]),
            delimiter=None if given.get("delimiter") is None else _delimiter(given["delimiter"]),
            quote=None if given.get("quote") is None else _quote(given["quote"]),
            skip_rows=_rows(given.get("skip_rows") or 0),
        )


def clean_options(given: dict[str, Any]) -> dict[str, Any]:
    """Return ``given`` without empty values; raise InvalidOption as :meth:`ReadOptions.of` does."""
    ReadOptions.of(given)
    return {field: value for field, value in given.items() if value not in (None, 0)}


def encoding_named(name: object) -> str:
    """Return Python's name of an encoding; raise InvalidOption if it is not a text encoding."""
    try:
        codec = codecs.lookup(str(name).strip()) if isinstance(name, str) and name.isascii() else None
    except LookupError:
        codec = None
    known = (
        codec is not None and codec.name.replace("-", "_") not in _NO_FILE and getattr(codec, "_is_text_encoding", True)
    )
    if codec is None or not known:
        rule = "must be one that Python knows, such as utf-8, cp1251, gbk or shift_jis"
        raise InvalidOption(Problem("encoding", rule, quoted(name)))
    return _SUPERSETS.get(codec.name, codec.name)


def _delimiter(given: object) -> str:
    delimiter = _DELIMITERS.get(given.strip().lower(), given) if isinstance(given, str) else ""
    if len(delimiter) != 1 or delimiter in '\r\n\x00"':
        rule = "must be one character, or comma, semicolon, tab, pipe or space"
        raise InvalidOption(Problem("delimiter", rule, quoted(given)))
    return delimiter


def _quote(given: object) -> str:
    if isinstance(given, str) and given.strip().lower() in {NO_QUOTE, ""}:
        return ""
    if not isinstance(given, str) or len(given) != 1 or given in "\r\n\x00\\":
        rule = "must be one character, or none if nothing is quoted"
        raise InvalidOption(Problem("quote", rule, quoted(given)))
    return given


def _rows(given: object) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= MAX_SKIPPED_ROWS:
        raise InvalidOption(Problem("skip_rows", f"must be a number from 0 to {MAX_SKIPPED_ROWS:,}", quoted(given)))
    return given
