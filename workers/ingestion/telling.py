"""Say in plain lines what became of a file, the worst first: one wording for every door. Pure."""

from collections.abc import Mapping
from typing import Any

from workers.ingestion.kinds import ROWS, TITLES, Kind
from workers.ingestion.tally import Note, Reason

# Notes that are told by a line of their own, with what they mean.
_NOTES = {
    Note.ROWS_CUT: "have more cells than the header, so their content may be cut at a {delimiter}",
    Note.CATEGORY_LEFT_EMPTY: "have a category that means none; it is left empty, and kept in metadata",
}
_AT_END = {
    Note.CUT_SHORT: "the file is cut short: its array of records does not end",
    Note.OTHER_ARRAYS: "the file has other arrays of objects, too, which are not read",
    Note.MORE_BEHIND: "the file goes on behind its first JSON value, which is not read: hand in one array of records",
}
_READ_AS = ("delimiter", "quote", "escape", "array", "sheet", "encoding", "packed")
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe", " ": "space"}


ReadAs = Mapping[str, Any]


def problems(
    *, total: int, skipped: int, details: Mapping[str, Any], warnings: Mapping[str, Any], read_as: ReadAs
) -> list[str]:
    """Return what a person must see first: most rows are skipped, rows are cut, or the file is."""
    found = []
    if 2 * skipped > total:
        reasons = ", ".join(f"{reason} {one['count']:,}" for reason, one in _most_first(details))
        found.append(f"{skipped:,} of {total:,} rows {'was' if total == 1 else 'were'} skipped: {reasons}")
    if Note.ROWS_CUT in warnings:
        found.append(_noted(Note.ROWS_CUT, warnings, read_as))
    return found + [text for note, text in _AT_END.items() if note in warnings]


def skipped_lines(details: Mapping[str, Any], read_as: ReadAs) -> list[str]:
    """Return a line for each reason, with the first rows it holds for."""
    return [f"skipped as {reason}: {places(one, read_as)}" for reason, one in sorted(details.items())]


def warning_lines(warnings: Mapping[str, Any], read_as: ReadAs) -> list[str]:
    """Return a line for each thing that is said of the file besides its problems; of lists no more than there is."""
    told = []
    for what, value in sorted(warnings.items()):
        if what in _AT_END or what == Note.ROWS_CUT:
            continue
        if what in _NOTES:
            told.append(_noted(Note(what), warnings, read_as))
        elif what == "replaced_characters":
            told.append(f"replaced characters: {value:,} could not be read, and are \N{REPLACEMENT CHARACTER} now")
        elif what == "read_as":
            told.append(f"read as {read_as_line(value)}")
        else:
            said = _said(value) if isinstance(value, Mapping) else value
            told.append(f"{what.replace('_', ' ')}: {said}")
    return told


def places(one: Mapping[str, Any], read_as: ReadAs) -> str:
    """Return how often and where."""
    first = ", ".join(map(str, one["lines"]))
    more = ", …" if one["count"] > len(one["lines"]) else ""
    return f"{one['count']:,} ({_row_word(read_as)}{'s' if one['count'] > 1 else ''} {first}{more})"


def read_as_line(read_as: Mapping[str, Any]) -> str:
    """Return how a file is read."""
    said = [f"{what} {read_as[what]!r}" for what in _READ_AS if what in read_as]
    return ", ".join([read_as["kind"], *said])


def _noted(note: Note, warnings: Mapping[str, Any], read_as: ReadAs) -> str:
    one = warnings[note]
    delimiter = read_as.get("delimiter", ",")
    text = _NOTES[note].format(delimiter=_NAMES.get(delimiter, delimiter))
    count, where = places(one, read_as).split(" ", 1)
    if one["count"] == 1:
        text = text.replace("have ", "has ", 1).replace("their", "its")
    return f"{count} row{'s' if one['count'] > 1 else ''} {text} {where}"


def _row_word(read_as: ReadAs) -> str:
    title = read_as.get("kind")
    return next((word for kind, word in ROWS.items() if TITLES[kind] == title), ROWS[Kind.CSV])


def _said(warning: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {item!r}" for key, item in warning.items() if not isinstance(item, list))


def _most_first(details: Mapping[str, Any]) -> list[tuple[str, Any]]:
    order = list(Reason)
    known = {reason: order.index(Reason(reason)) for reason in details if reason in order}
    return sorted(details.items(), key=lambda item: (-item[1]["count"], known.get(item[0], len(order))))
