"""Say which column of a file means what: by a mapping that was given, else by the names that such columns have.

A guess is only made where the column's values bear it out: nothing that a person did not say costs a row.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, get_args

from models.operations import RECORD_TYPES
from workers.ingestion.blank import is_blank, trimmed
from workers.ingestion.refusals import Unreadable, listed
from workers.ingestion.template import Template, is_template
from workers.runtime.refusals import cut, quoted

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
# Returns the values that a sample of the file's rows has in a column.
Sample = Callable[[int], Sequence[str]]
_SHOWN = 30


@dataclass(frozen=True, slots=True)
class Places:
    """At which position of a row each field is.

    ``found`` are the columns that nobody had named, ``passed_over`` those that are called like a field and hold
    something else. ``template`` makes the content of several columns.
    """

    at: Mapping[Field, int]
    found: Mapping[Field, str]
    passed_over: Mapping[Field, str] = field(default_factory=dict)
    template: Template | None = None


def _nothing(_column: int) -> Sequence[str]:
    return ()


def locate(mapping: Mapping[str, str], columns: Sequence[str], *, sample: Sample = _nothing) -> Places:
    """Return where each field is; raise Unreadable for a mapped column that is not there, or without a content column.

    A field mapped to the empty name is not looked for. Case decides only between columns that differ by nothing else.
    """
    at: dict[Field, int] = {}
    found: dict[Field, str] = {}
    passed_over: dict[Field, str] = {}
    template = None
    for one in FIELDS:
        wanted = mapping.get(one)
        if wanted is not None and one == "content" and wanted not in columns and is_template(wanted):
            template = Template.of(wanted, columns, place=lambda name: _place(name, columns))
        elif wanted is not None:
            if wanted.strip():
                at[one] = _named(one, wanted, columns)
        elif candidates := _well_known(one, columns):
            place, why_not = _fitting(one, candidates, sample)
            if why_not:
                passed_over[one] = f"{quoted(columns[place])}, because {why_not}"
            else:
                at[one], found[one] = place, columns[place]
    if "content" not in at and template is None:
        raise Unreadable(f"no column looks like content; map one of the file's columns to it: {listed(list(columns))}")
    return Places(at, found, passed_over, template)


def check(mapping: Mapping[str, object]) -> None:
    """Raise ValueError for a mapping that no file could fulfil."""
    for one, column in mapping.items():
        if one not in FIELDS:
            raise ValueError(f"mapping has no field {quoted(one)}; its fields: {', '.join(FIELDS)}")
        if not isinstance(column, str):
            raise ValueError(f"mapping of {one} must be a column's name, got {quoted(str(column))}")  # noqa: TRY004 - as every rule here
        if one == "content" and is_blank(column):
            raise ValueError("mapping must name a column for content")


def _named(one: Field, wanted: str, columns: Sequence[str]) -> int:
    if (place := _place(wanted, columns)) is not None:
        return place
    raise Unreadable(f"{one} is mapped to {quoted(wanted)}, which is no column of the file; its columns: "
                     f"{listed(list(columns))}")  # fmt: skip


def _place(wanted: str, columns: Sequence[str]) -> int | None:
    if wanted in columns:
        return columns.index(wanted)
    folded, name = [column.casefold() for column in columns], trimmed(wanted).casefold()
    return folded.index(name) if name in folded else None


def _well_known(one: Field, columns: Sequence[str]) -> list[int]:
    bare = [_bare(column) for column in columns]
    return [bare.index(name) for name in WELL_KNOWN[one] if name in bare]


def _fitting(one: Field, candidates: Sequence[int], sample: Sample) -> tuple[int, str | None]:
    """Return which column is taken for a field, or would have been and why it is not."""
    if one == "content":
        values = {place: [value for value in sample(place) if not is_blank(value)] for place in candidates}
        worded = [place for place in candidates if _mostly(_has_letters, values[place])]
        return next(iter(worded or [place for place in candidates if values[place]] or candidates)), None
    place = candidates[0]
    said = [value for value in sample(place) if not is_blank(value)]
    if one == "category" and said and not _mostly(lambda value: bool(category(value)), said):
        odd = next(value for value in said if not category(value))
        return place, f"its values, such as {quoted(cut(odd, _SHOWN))}, are no category"
    if one == "type" and (odd := next((value for value in said if trimmed(value).upper() not in RECORD_TYPES), "")):
        return place, f"its values, such as {quoted(cut(odd, _SHOWN))}, are no record type"
    if one == "creator_email" and said and not _mostly(lambda value: "@" in value, said):
        return place, f"its values, such as {quoted(cut(said[0], _SHOWN))}, are no addresses"
    return place, None


def _mostly(fits: Callable[[str], bool], values: Sequence[str]) -> bool:
    return bool(values) and 2 * sum(map(fits, values)) >= len(values)


def _has_letters(value: str) -> bool:
    return any(map(str.isalpha, value[:1_000]))


# A category or type that is spelled with more than this is none.
LONGEST_NAME = 40
_CATEGORIES = {"top10": "TOP_10", "bottom10": "BOTTOM_10"}


@lru_cache(maxsize=1_000)
def category(cell: str) -> str | None:
    """Return the category that ``cell`` means, the empty text for an empty cell, None where it means none."""
    if is_blank(cell):
        return ""
    return None if len(cell) > LONGEST_NAME else _CATEGORIES.get(_bare(cell))


@lru_cache(maxsize=1_000)
def is_other_type(cell: str, wanted: str) -> bool:
    """Tell whether ``cell`` names a record type, and not ``wanted``; what names none is no type."""
    named = trimmed(cell).upper()
    return named != wanted and named in RECORD_TYPES


def _bare(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()
