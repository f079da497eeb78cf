"""Detect the kind of a file from its first bytes, not from its name. Other kinds are refused by name.

Pure. The ``source`` of jobs and records begins with the name of the kind.
"""

import re
from enum import StrEnum
from typing import Literal

from workers.ingestion.refusals import Unreadable


class FileKind(StrEnum):
    """A kind of file that can be ingested."""

    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"
    XLSX = "xlsx"


Container = Literal["text", "gzip", "zip"]
# The name of each kind in messages.
TITLES = {FileKind.CSV: "CSV", FileKind.JSON: "JSON", FileKind.JSONL: "JSON Lines", FileKind.XLSX: "an Excel workbook"}
# What the numbers of skipped rows count.
ROWS = {FileKind.CSV: "line", FileKind.JSON: "item", FileKind.JSONL: "line", FileKind.XLSX: "row"}
SUPPORTED = "hand in CSV, JSON, JSON Lines or Excel (.xlsx), or one of them in gzip"

_GZIP, _ZIP = b"\x1f\x8b", (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_OTHERS = tuple(
    (re.compile(magic, re.DOTALL), what)
    for magic, what in (
        (rb"%PDF-", "a PDF"),
        (rb"\x89PNG\r\n", "a picture (PNG)"),
        (rb"\xff\xd8\xff", "a picture (JPEG)"),
        (rb"GIF8[79]a", "a picture (GIF)"),
        (rb"II\*\x00|MM\x00\*", "a picture (TIFF)"),
        (rb"RIFF....(?:WEBP|WAVE|AVI )", "a picture, sound or film (RIFF)"),
        (rb"....ftyp", "a film or a picture"),
        (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old or encrypted Office file (.xls, .doc): save it as .xlsx or CSV"),
        (rb"BZh[1-9]1AY&SY", "compressed with bzip2"),
        (rb"\xfd7zXZ\x00", "compressed with xz"),
        (rb"\x28\xb5\x2f\xfd", "compressed with zstd"),
        (rb"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
        (rb"Rar!\x1a\x07", "a RAR archive"),
        (rb"PAR1[\x00-\x1f]", "a Parquet file"),
        (rb"ARROW1\x00\x00", "an Arrow file"),
        (rb"SQLite format 3\x00", "a SQLite database"),
        (rb"\x7fELF", "a program"),
        (rb"\{\\rtf", "a text document (RTF)"),
    )
)
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:(!doctype\s+html|html\b)|(\?xml\b))", re.IGNORECASE)
# The beginning of JSON. The header of a CSV may begin with a brace or a bracket, too.
_OBJECT, _ARRAY = re.compile(r'\s*\{\s*["}]'), re.compile(r'\s*\[\s*(?:[\]{"\[]|$)')
_JSONL_ENDINGS = (".jsonl", ".ndjson", ".jsonlines")
# Share of control characters in the first bytes: a few damaged characters are counted, not refused.
_MAX_CONTROL_SHARE = 0.05
_MAX_CONTROLS_IN_SHORT_TEXT = 16
_CONTROLS = bytes({*range(0x20), 0x7F} - {*b"\t\n\r\x0b\x0c\x1a\x1b\x08\x1c\x1d\x1e\x1f"})
_CHECKED_BYTES = 4_096


def is_packed(head: bytes) -> bool:
    """Return whether a file that begins with ``head`` is a gzip or a zip."""
    return head.startswith((_GZIP, *_ZIP))


def container(head: bytes) -> Container:
    """Return the container of the file that begins with ``head``; raise Unreadable if the file has no rows."""
    if head.startswith(_GZIP):
        return "gzip"
    if head.startswith(_ZIP):
        return "zip"
    for magic, what in _OTHERS:
        if magic.match(head):
            raise Unreadable(f"this is no table: it is {what}; {SUPPORTED}")
    if found := _MARKUP.match(head):
        raise Unreadable(f"this is no table: it is {'a web page (HTML)' if found[1] else 'XML'}; {SUPPORTED}")
    return "text"


def require_text(head: bytes, encoding: str) -> None:
    """Raise Unreadable if ``head`` has too many control characters for a text in ``encoding``."""
    if encoding.startswith(("utf-16", "utf-32")) or _is_text(head):
        return
    raise Unreadable(f"this is no table: it has too many control characters for a text; {SUPPORTED}")


def _is_text(head: bytes) -> bool:
    looked_at = head[:_CHECKED_BYTES]
    controls = len(looked_at) - len(looked_at.translate(None, _CONTROLS))
    return controls <= max(_MAX_CONTROLS_IN_SHORT_TEXT, _MAX_CONTROL_SHARE * len(looked_at))


def text_kind(head: str, *, name: str) -> FileKind:
    """Return the kind of a text file that begins with ``head``. ``name`` decides if it may be JSON or JSON Lines."""
    if _ARRAY.match(head):
        return FileKind.JSON
    if not _OBJECT.match(head):
        return FileKind.CSV
    if without_gz(name).endswith(_JSONL_ENDINGS):
        return FileKind.JSONL
    first, line_end, rest = head.lstrip().partition("\n")
    whole_line = first.rstrip().endswith("}")
    return FileKind.JSONL if whole_line and line_end and _OBJECT.match(rest) else FileKind.JSON


def without_gz(name: str) -> str:
    """Return a file's name in small letters, without ``.gz``."""
    return name.casefold().removesuffix(".gz")
