"""How a person says that a file is to be read, where that is not to be found out from the file itself. Pure."""

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from workers.runtime.refusals import Problem, Refusal, quoted

MOST_SKIPPED_ROWS = 10_000
_FIELDS = ("encoding", "delimiter", "quote", "skip_rows")
_DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|", "space": " ", "colon": ":"}
# What is usually meant holds more characters than what is named.
_SUPERSETS = {
    "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "cp950",
    "utf-8": "utf-8-sig",
}  # fmt: skip
# Python calls these text encodings; no file is in one of them.
_NO_FILE = {"idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape", "mbcs", "oem"}
NO_QUOTE = "none"


class InvalidOption(Refusal, ValueError):
    """An option breaks a rule; the problem names the option, the rule and the value."""


@dataclass(frozen=True, slots=True)
class Options:
    """What was said about a file; None where nothing was. ``quote`` is empty where nothing is quoted."""

    encoding: str | None = None
    delimiter: str | None = None
    quote: str | None = None
    skip_rows: int = 0

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """Return what ``said`` says; raise InvalidOption naming the field, the rule and the value."""
        for field in said:
            if field not in _FIELDS:
                raise InvalidOption(f"options have no field {quoted(field)}; its fields: {', '.join(_FIELDS)}")
        return cls(
            encoding=None if said.get("encoding") is None else encoding_named(said["encoding"]),
            delimiter=None if said.get("delimiter") is None else _delimiter(said["delimiter"]),
            quote=None if said.get("quote") is None else _quote(said["quote"]),
            skip_rows=_rows(said.get("skip_rows") or 0),
        )


def checked(said: dict[str, Any]) -> dict[str, Any]:
    """Return ``said`` without what says nothing; raise InvalidOption as :meth:`Options.of` does."""
    Options.of(said)
    return {field: value for field, value in said.items() if value not in (None, 0)}


def encoding_named(name: object) -> str:
    """Return Python's name of an encoding that a person named; raise InvalidOption where it is none of text."""
    try:
        codec = codecs.lookup(str(name).strip()) if isinstance(name, str) and name.isascii() else None
    except LookupError:
        codec = None
    known = codec is not None and codec.name not in _NO_FILE and getattr(codec, "_is_text_encoding", True)
    if codec is None or not known:
        rule = "must be one that Python knows, such as utf-8, cp1251, gbk or shift_jis"
        raise InvalidOption(Problem("encoding", rule, quoted(name)))
    return _SUPERSETS.get(codec.name, codec.name)


def _delimiter(said: object) -> str:
    delimiter = _DELIMITERS.get(said.strip().lower(), said) if isinstance(said, str) else ""
    if len(delimiter) != 1 or delimiter in '\r\n\x00"':
        rule = "must be one character, or comma, semicolon, tab, pipe or space"
        raise InvalidOption(Problem("delimiter", rule, quoted(said)))
    return delimiter


def _quote(said: object) -> str:
    if isinstance(said, str) and said.strip().lower() in {NO_QUOTE, ""}:
        return ""
    if not isinstance(said, str) or len(said) != 1 or said in "\r\n\x00\\":
        rule = "must be one character, or none where nothing is quoted"
        raise InvalidOption(Problem("quote", rule, quoted(said)))
    return said


def _rows(said: object) -> int:
    if isinstance(said, bool) or not isinstance(said, int) or not 0 <= said <= MOST_SKIPPED_ROWS:
        raise InvalidOption(Problem("skip_rows", f"must be a number from 0 to {MOST_SKIPPED_ROWS:,}", quoted(said)))
    return said
