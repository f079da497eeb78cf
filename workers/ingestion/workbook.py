"""Read the rows of the first visible sheet of an Excel workbook, within limits.

A workbook is a zip of XML. The library calamine reads it; it resolves no XML entities, but holds the whole sheet in
memory. The unpacked size, which the zip's directory has, is checked before. As ``__main__``, in a confined process, it
reads a workbook from standard input and writes its rows to standard output: a JSON array per line, the row's number
first.
"""

import html
import json
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import IO, Any

from workers.ingestion.refusals import Unreadable, quote_names

MAX_WORKBOOK_BYTES = 256 * 1024 * 1024
MAX_UNZIPPED_BYTES = 2 * 1024**3
MAX_WORKBOOK_RATIO = 200
MIN_WORKBOOK_RATIO_BYTES = 64 * 1024 * 1024
MAX_PARTS = 10_000
MAX_WORKBOOK_MEMORY_BYTES = 1536 * 1024 * 1024
MAX_WORKBOOK_PROCESSOR_SECONDS = 300
WORKBOOK_EXCEEDED = "the workbook needs too much memory or time to be read: save it as CSV"
_MIMETYPE = "mimetype"
_SAVE_AGAIN = "save it again as .xlsx or CSV"
DAMAGED = f"this is a zip or an Excel file, and it is damaged or incomplete: {_SAVE_AGAIN}"


@dataclass(frozen=True, slots=True)
class Sheet:
    """An open sheet. ``others`` are the names of the sheets that are not read.

    ``unsaved_formulas`` counts the cells that have a formula but no stored result.
    """

    name: str
    others: list[str]
    unsaved_formulas: int
    rows: Iterator[tuple[int, list[str]]]


def open_sheet(file: IO[bytes]) -> Sheet:
    """Return the first visible sheet of the workbook in ``file``; raise Unreadable in one line.

    ``rows`` yields the number that Excel shows and the cells as text, without empty rows. The text of a formula is its
    result when the workbook was saved.
    """
    _check_zip(file)
    from python_calamine import (  # noqa: PLC0415 - only workbooks need this library
        CalamineWorkbook,
        SheetTypeEnum,
        SheetVisibleEnum,
    )

    file.seek(0)
    try:
        book = CalamineWorkbook.from_filelike(file)
        sheets = [one for one in book.sheets_metadata if one.typ == SheetTypeEnum.WorkSheet]
        shown = [one.name for one in sheets if one.visible == SheetVisibleEnum.Visible] or [one.name for one in sheets]
        rows = book.get_sheet_by_name(shown[0]).iter_rows() if shown else iter(())
    except Exception:  # noqa: BLE001 - a damaged workbook can raise anything in the library
        raise Unreadable(DAMAGED) from None
    if not shown:
        raise Unreadable(f"the workbook has no sheet: {_SAVE_AGAIN}")
    others = [one.name for one in sheets if one.name != shown[0]]
    return Sheet(shown[0], others, _unsaved_formulas(file, shown[0]), _numbered(rows))


_TAG = r"<(?:\w+:)?{}\b([^>]*)>"
_SHEETS, _RELATIONS = re.compile(_TAG.format("sheet")), re.compile(_TAG.format("Relationship"))
_ATTRIBUTE = re.compile(r"([\w:]+)\s*=\s*[\"']([^\"']*)[\"']")
# A cell with a formula and no result. If the result is empty text, Excel writes no result either, but t="str".
_UNSAVED = re.compile(
    rb"<c\b(?![^>]*\bt=.str.)[^>]*>\s*<f\b(?:[^>]*/>|[^>]*>[^<]*</f>)\s*(?:<v\s*/>|<v>\s*</v>)?\s*</c>"
)
_XML_PIECE_BYTES = 1024 * 1024


def _unsaved_formulas(file: IO[bytes], sheet: str) -> int:
    """Return how many formulas of the sheet have no stored result. Some programs write such cells, Excel does not."""
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        part = _part_of(archive, sheet)
        if part is None:
            return 0
        count, rest = 0, b""
        with archive.open(part) as content:
            while piece := content.read(_XML_PIECE_BYTES):
                rest += piece
                end = rest.rfind(b"</c>") + len(b"</c>")
                if end >= len(b"</c>"):
                    count += len(_UNSAVED.findall(rest, 0, end))
                    rest = rest[end:]
                rest = rest[-_XML_PIECE_BYTES:]
        return count


def _part_of(archive: zipfile.ZipFile, sheet: str) -> str | None:
    """Return the name of the zip's part with the sheet; None if the workbook does not name it in the usual way."""
    try:
        sheets, relations = (
            [dict(_ATTRIBUTE.findall(tag)) for tag in pattern.findall(archive.read(name).decode("utf-8", "replace"))]
            for name, pattern in (("xl/workbook.xml", _SHEETS), ("xl/_rels/workbook.xml.rels", _RELATIONS))
        )
    except KeyError:
        return None
    wanted = next((one.get("r:id") for one in sheets if html.unescape(one.get("name", "")) == sheet), None)
    target = next((one.get("Target", "") for one in relations if one.get("Id") == wanted), "")
    part = target.removeprefix("/") if target.startswith("/") else f"xl/{target}"
    return part if part in archive.namelist() else None


def _numbered(rows: Iterable[list[Any]]) -> Iterator[tuple[int, list[str]]]:
    for number, values in enumerate(rows, 1):
        cells = [cell_text(value) for value in values]
        while cells and not cells[-1]:
            cells.pop()
        if cells:
            yield number, cells


def cell_text(value: object) -> str:
    """Return a cell's value as text: whole numbers without a fraction, times in ISO format."""
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer() and abs(value) < 1e15:  # noqa: PLR2004 - Excel's own 15 digits
            return str(int(value))
        case datetime() if value.time() == time():
            return value.date().isoformat()
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return str(value)
        case _:
            return str(value)


def _check_zip(file: IO[bytes]) -> None:
    """Raise Unreadable if a zip is not a workbook, or expands to more than a workbook would."""
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
    except Exception:  # noqa: BLE001 - zipfile raises errors of several modules
        raise Unreadable(DAMAGED) from None
    names = {part.filename.casefold() for part in parts}
    if "xl/workbook.bin" in names:
        raise Unreadable(f"this is a binary Excel file (.xlsb): {_SAVE_AGAIN}")
    if "xl/workbook.xml" not in names:
        raise Unreadable(_not_a_workbook(names, [part.filename for part in parts]))
    if any(part.flag_bits & 1 for part in parts):
        raise Unreadable("the workbook is encrypted: save it without a password")
    unpacked, packed = sum(part.file_size for part in parts), sum(part.compress_size for part in parts)
    if len(parts) > MAX_PARTS or unpacked > MAX_UNZIPPED_BYTES:
        raise Unreadable(f"the workbook expands to {unpacked // 1024**2:,} MiB in {len(parts):,} parts, which is too "
                         "much: save it as CSV")  # fmt: skip
    if unpacked > MIN_WORKBOOK_RATIO_BYTES and unpacked > MAX_WORKBOOK_RATIO * max(packed, 1):
        raise Unreadable(f"the workbook expands to more than {MAX_WORKBOOK_RATIO} times its size, which no table does: "
                         "it is not read")  # fmt: skip


def _not_a_workbook(names: set[str], parts: list[str]) -> str:
    if "word/document.xml" in names:
        return "this is no table: it is a Word document; hand in CSV, JSON or Excel (.xlsx)"
    if _MIMETYPE in names and "content.xml" in names:
        return f"this is an OpenDocument file: {_SAVE_AGAIN}"
    inside = quote_names(parts[:5]) or "nothing"
    return f"this is a zip archive, which holds {inside}: unpack it and hand in the file inside"


def _main() -> None:
    out = open(sys.stdout.fileno(), "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    try:
        sheet = open_sheet(sys.stdin.buffer)
        print(
            json.dumps({"sheet": sheet.name, "others": sheet.others, "unsaved_formulas": sheet.unsaved_formulas}),
            file=out,
        )
        for number, cells in sheet.rows:
            print(json.dumps([number, *cells]), file=out)
    except Unreadable as error:
        print(json.dumps({"error": str(error)}), file=out)
    out.flush()


if __name__ == "__main__":
    _main()
