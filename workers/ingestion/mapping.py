"""Find the column of each field: by the given mapping, otherwise by usual column names.

A column that is found by its name is used only if its values fit, so that a wrong guess skips no row.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, get_args

from models.operations import RECORD_TYPES
from workers.ingestion.blank import is_blank, trim
from workers.ingestion.refusals import Unreadable, quote_names
from workers.ingestion.template import Template, is_template
from workers.runtime.refusals import cut, quoted

Field = Literal["content", "category", "type", "creator", "creator_id", "creator_name", "creator_email"]
FIELDS: tuple[Field, ...] = get_args(Field)
# Names without case and punctuation, the most likely first.
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
# Returns the values of a column in the first rows.
Sample = Callable[[int], Sequence[str]]
_MAX_SHOWN_CHARS = 30


@dataclass(frozen=True, slots=True)
class Places:
    """The position of each field in a row.

    ``found`` are the columns found by their names. ``passed_over`` are columns with the name of a field but other
    values, with the reason. ``template`` makes the content from several columns.
    """

    at: Mapping[Field, int]
    found: Mapping[Field, str]
    passed_over: Mapping[Field, str] = field(default_factory=dict)
    template: Template | None = None


def _nothing(_column: int) -> Sequence[str]:
    return ()


def locate(mapping: Mapping[str, str], columns: Sequence[str], *, sample: Sample = _nothing) -> Places:
    """Return the position of each field; raise Unreadable if a mapped column or the content column is missing.

    A field that is mapped to the empty name has no column. Case matters only if two columns differ in nothing else.
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
        raise Unreadable(f"no column looks like content; map one of these columns to it: {quote_names(list(columns))}")
    return Places(at, found, passed_over, template)


def check_mapping(mapping: Mapping[str, object]) -> None:
    """Raise ValueError if the mapping is not valid for any file."""
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
    raise Unreadable(f"{one} is mapped to {quoted(wanted)}, which is not a column of the file; its columns: "
                     f"{quote_names(list(columns))}")  # fmt: skip


def _place(wanted: str, columns: Sequence[str]) -> int | None:
    if wanted in columns:
        return columns.index(wanted)
    folded, name = [column.casefold() for column in columns], trim(wanted).casefold()
    return folded.index(name) if name in folded else None


def _well_known(one: Field, columns: Sequence[str]) -> list[int]:
    bare = [_bare(column) for column in columns]
    return [bare.index(name) for name in WELL_KNOWN[one] if name in bare]


def _fitting(one: Field, candidates: Sequence[int], sample: Sample) -> tuple[int, str | None]:
    """Return the column for a field and None, or the column that does not fit and the reason."""
    if one == "content":
        values = {place: [value for value in sample(place) if not is_blank(value)] for place in candidates}
        worded = [place for place in candidates if _mostly(_has_letters, values[place])]
        return next(iter(worded or [place for place in candidates if values[place]] or candidates)), None
    place = candidates[0]
    filled = [value for value in sample(place) if not is_blank(value)]
    if one == "category" and filled and not _mostly(lambda value: bool(category(value)), filled):
        odd = next(value for value in filled if not category(value))
        return place, f"its values, such as {quoted(cut(odd, _MAX_SHOWN_CHARS))}, are not categories"
    if one == "type" and (odd := next((value for value in filled if trim(value).upper() not in RECORD_TYPES), "")):
        return place, f"its values, such as {quoted(cut(odd, _MAX_SHOWN_CHARS))}, are not record types"
    if one == "creator_email" and filled and not _mostly(lambda value: "@" in value, filled):
        return place, f"its values, such as {quoted(cut(filled[0], _MAX_SHOWN_CHARS))}, are not mail addresses"
    return place, None


def _mostly(fits: Callable[[str], bool], values: Sequence[str]) -> bool:
    return bool(values) and 2 * sum(map(fits, values)) >= len(values)


def _has_letters(value: str) -> bool:
    return any(map(str.isalpha, value[:1_000]))


# A longer text is not a category or type.
MAX_NAME_CHARS = 40
_CATEGORIES = {"top10": "TOP_10", "bottom10": "BOTTOM_10"}


@lru_cache(maxsize=1_000)
def category(cell: str) -> str | None:
    """Return the category that ``cell`` names, the empty text for an empty cell, None for any other text."""
    if is_blank(cell):
        return ""
    return None if len(cell) > MAX_NAME_CHARS else _CATEGORIES.get(_bare(cell))


@lru_cache(maxsize=1_000)
def is_other_type(cell: str, wanted: str) -> bool:
    """Return whether ``cell`` names a record type other than ``wanted``."""
    named = trim(cell).upper()
    return named != wanted and named in RECORD_TYPES


def _bare(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()
