"""Say which column of a file means what: by a mapping that was given, else by the names that such columns have."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from models.operations import RECORD_TYPES
from workers.ingestion.refusals import Unreadable, listed
from workers.runtime.wording import quoted

Field = Literal["content", "category", "type", "creator", "creator_id", "creator_name", "creator_email"]
FIELDS: tuple[Field, ...] = get_args(Field)
# Names without case and punctuation, the likeliest first.
WELL_KNOWN: dict[Field, tuple[str, ...]] = {
    "content": (
        "content", "prompt", "text", "feedback", "task", "body", "message", "comment", "question", "instruction",
        "request", "review", "response", "description",
    ),
    "category": ("category", "recordcategory"),
    "type": ("type", "recordtype"),
    "creator": ("creator", "createdby", "author", "contributor", "annotator", "user", "username"),
    "creator_id": ("creatorid", "createdbyid", "userid", "authorid", "annotatorid"),
    "creator_name": ("creatorname", "createdbyname", "authorname"),
    "creator_email": ("creatoremail", "createdbyemail", "useremail", "authoremail", "email"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Places:
    """At which position of a row each field is; ``found`` are the columns that nobody had named."""

    at: Mapping[Field, int]
    found: Mapping[Field, str]


def locate(mapping: Mapping[str, str], columns: Sequence[str]) -> Places:
    """Return where each field is; raise Unreadable for a mapped column that is not there, or without a content column.

    A field mapped to the empty name is not looked for. Case decides only between columns that differ by nothing else.
    """
    at: dict[Field, int] = {}
    found: dict[Field, str] = {}
    for field in FIELDS:
        if (wanted := mapping.get(field)) is not None:
            if wanted.strip():
                at[field] = _named(field, wanted, columns)
        elif (place := _well_known(field, columns)) is not None:
            at[field] = place
            found[field] = columns[place]
    if "content" not in at:
        raise Unreadable(f"no column looks like content; map one of the file's columns to it: {listed(list(columns))}")
    return Places(at, found)


def check(mapping: Mapping[str, object]) -> None:
    """Raise ValueError for a mapping that no file could fulfil."""
    for field, column in mapping.items():
        if field not in FIELDS:
            raise ValueError(f"mapping has no field {quoted(field)}; its fields: {', '.join(FIELDS)}")
        if not isinstance(column, str):
            raise ValueError(f"mapping of {field} must be a column's name, got {quoted(str(column))}")  # noqa: TRY004 - as every rule here
        if field == "content" and not column.strip():
            raise ValueError("mapping must name a column for content")


def _named(field: Field, wanted: str, columns: Sequence[str]) -> int:
    if wanted in columns:
        return columns.index(wanted)
    folded = [column.casefold() for column in columns]
    if wanted.strip().casefold() in folded:
        return folded.index(wanted.strip().casefold())
    raise Unreadable(f"{field} is mapped to {quoted(wanted)}, which is no column of the file; its columns: "
                     f"{listed(list(columns))}")  # fmt: skip


def _well_known(field: Field, columns: Sequence[str]) -> int | None:
    bare = [_bare(column) for column in columns]
    return next((bare.index(name) for name in WELL_KNOWN[field] if name in bare), None)


# A category or type that is spelled with more than this is none.
LONGEST_NAME = 40
_CATEGORIES = {"top10": "TOP_10", "bottom10": "BOTTOM_10"}


@lru_cache(maxsize=1_000)
def category(cell: str) -> str | None:
    """Return the category that ``cell`` means, the empty text for an empty cell, None where it means none."""
    if not cell or cell.isspace():
        return ""
    return None if len(cell) > LONGEST_NAME else _CATEGORIES.get(_bare(cell))


@lru_cache(maxsize=1_000)
def is_other_type(cell: str, wanted: str) -> bool:
    """Tell whether ``cell`` names a record type, and not ``wanted``; what names none is no type."""
    named = cell.strip().upper()
    return named != wanted and named in RECORD_TYPES


def _bare(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()
