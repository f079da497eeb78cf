"""Describe the result of a file in lines for people, problems first. All doors use these lines. Pure."""

from collections.abc import Mapping
from typing import Any

from workers.ingestion.kinds import ROWS, TITLES, FileKind
from workers.ingestion.record_counts import RowNote, SkipReason

# Warnings about rows, with their text.
_NOTES = {
    RowNote.ROWS_CUT: "have more cells than the header, so their content may be cut at a {delimiter}",
    RowNote.CATEGORY_LEFT_EMPTY: "have an unknown category; it is left empty, and kept in metadata",
}
_AT_END = {
    RowNote.CUT_SHORT: "the file is cut short: its array of records does not end",
    RowNote.OTHER_ARRAYS: "the file has other arrays of objects, which are not read",
    RowNote.NO_RECORDS: "the file has 0 records: it has only a header",
    RowNote.MORE_BEHIND: "the file has text after its first JSON value that is not read: hand in one array of records",
}
_READ_AS = ("delimiter", "quote", "escape", "array", "sheet", "encoding", "packed")
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe", " ": "space"}


ReadAs = Mapping[str, Any]


def file_problems(
    *, total: int, skipped: int, details: Mapping[str, Any], warnings: Mapping[str, Any], read_as: ReadAs
) -> list[str]:
    """Return the problems that a person must see first: most rows are skipped, rows or the file are cut, no records."""
    found = []
    if 2 * skipped > total:
        reasons = ", ".join(f"{reason} {one['count']:,}" for reason, one in _most_first(details))
        found.append(f"{skipped:,} of {total:,} rows {'was' if total == 1 else 'were'} skipped: {reasons}")
    if RowNote.ROWS_CUT in warnings:
        found.append(_row_note_line(RowNote.ROWS_CUT, warnings, read_as))
    return found + [text for note, text in _AT_END.items() if note in warnings]


def skipped_lines(details: Mapping[str, Any], read_as: ReadAs) -> list[str]:
    """Return a line for each reason, with the numbers of the first rows."""
    return [f"skipped as {reason}: {count_and_lines(one, read_as)}" for reason, one in sorted(details.items())]


def warning_lines(warnings: Mapping[str, Any], read_as: ReadAs) -> list[str]:
    """Return a line for each warning that is not a problem."""
    lines = []
    for name, value in sorted(warnings.items()):
        if name in _AT_END or name == RowNote.ROWS_CUT:
            continue
        if name in _NOTES:
            lines.append(_row_note_line(RowNote(name), warnings, read_as))
        elif name == "replaced_characters":
            lines.append(f"replaced characters: {value:,} could not be read, and are \N{REPLACEMENT CHARACTER} now")
        elif name == "read_as":
            lines.append(f"read as {read_as_line(value)}")
        else:
            shown = _pairs(value) if isinstance(value, Mapping) else value
            lines.append(f"{name.replace('_', ' ')}: {shown}")
    return lines


def count_and_lines(one: Mapping[str, Any], read_as: ReadAs) -> str:
    """Return the count and the numbers of the first rows."""
    first = ", ".join(map(str, one["lines"]))
    more = ", …" if one["count"] > len(one["lines"]) else ""
    return f"{one['count']:,} ({_row_word(read_as)}{'s' if one['count'] > 1 else ''} {first}{more})"


def read_as_line(read_as: Mapping[str, Any]) -> str:
    """Return how a file is read."""
    parts = [f"{name} {read_as[name]!r}" for name in _READ_AS if name in read_as]
    return ", ".join([read_as["kind"], *parts])


def _row_note_line(note: RowNote, warnings: Mapping[str, Any], read_as: ReadAs) -> str:
    one = warnings[note]
    delimiter = read_as.get("delimiter", ",")
    text = _NOTES[note].format(delimiter=_NAMES.get(delimiter, delimiter))
    count, where = count_and_lines(one, read_as).split(" ", 1)
    if one["count"] == 1:
        text = text.replace("have ", "has ", 1).replace("their", "its")
    return f"{count} row{'s' if one['count'] > 1 else ''} {text} {where}"


def _row_word(read_as: ReadAs) -> str:
    title = read_as.get("kind")
    return next((word for kind, word in ROWS.items() if TITLES[kind] == title), ROWS[FileKind.CSV])


def _pairs(warning: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {item!r}" for key, item in warning.items() if not isinstance(item, list))


def _most_first(details: Mapping[str, Any]) -> list[tuple[str, Any]]:
    order = list(SkipReason)
    known = {reason: order.index(SkipReason(reason)) for reason in details if reason in order}
    return sorted(details.items(), key=lambda item: (-item[1]["count"], known.get(item[0], len(order))))
