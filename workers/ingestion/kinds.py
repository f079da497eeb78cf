"""Tell what kind of file it is from its first bytes, whatever its name: what holds rows is read, the rest is named.

Pure. The kinds' names begin the ``source`` of jobs and records.
"""

import re
from enum import StrEnum
from typing import Literal

from workers.ingestion.refusals import Unreadable


class Kind(StrEnum):
    """What a file that can be read holds."""

    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"
    XLSX = "xlsx"


Container = Literal["text", "gzip", "zip"]
# How a file of each kind is called.
TITLES = {Kind.CSV: "CSV", Kind.JSON: "JSON", Kind.JSONL: "JSON Lines", Kind.XLSX: "an Excel workbook"}
# What a skipped row's number counts.
ROWS = {Kind.CSV: "line", Kind.JSON: "item", Kind.JSONL: "line", Kind.XLSX: "row"}
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
# A beginning of a JSON document; a header of a CSV may begin with a brace or a bracket, too.
_OBJECT, _ARRAY = re.compile(r'\s*\{\s*["}]'), re.compile(r'\s*\[\s*(?:[\]{"\[]|$)')
_LINES = (".jsonl", ".ndjson", ".jsonlines")
# Of the first bytes so many may be characters that no text has: a damage here and there is counted, not refused.
_SHARE_OF_CONTROLS = 0.05
_FEW_CONTROLS = 16
_CONTROLS = bytes({*range(0x20), 0x7F} - {*b"\t\n\r\x0b\x0c\x1a\x1b\x08\x1c\x1d\x1e\x1f"})
_LOOKED_AT = 4_096


def is_packed(head: bytes) -> bool:
    """Tell whether a file that begins with ``head`` is no text until it is unpacked."""
    return head.startswith((_GZIP, *_ZIP))


def container(head: bytes) -> Container:
    """Return what the file that begins with ``head`` is wrapped in; raise Unreadable for what holds no rows."""
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
    """Raise Unreadable where ``head`` is full of characters that no text in ``encoding`` has."""
    if encoding.startswith(("utf-16", "utf-32")) or _is_text(head):
        return
    raise Unreadable(f"this is no table: it is full of control characters, which no text has; {SUPPORTED}")


def _is_text(head: bytes) -> bool:
    looked_at = head[:_LOOKED_AT]
    controls = len(looked_at) - len(looked_at.translate(None, _CONTROLS))
    return controls <= max(_FEW_CONTROLS, _SHARE_OF_CONTROLS * len(looked_at))


def text_kind(head: str, *, name: str) -> Kind:
    """Return the kind of a text file that begins with ``head``; ``name`` decides only where both would do."""
    if _ARRAY.match(head):
        return Kind.JSON
    if not _OBJECT.match(head):
        return Kind.CSV
    if bare(name).endswith(_LINES):
        return Kind.JSONL
    first, line_end, rest = head.lstrip().partition("\n")
    whole_line = first.rstrip().endswith("}")
    return Kind.JSONL if whole_line and line_end and _OBJECT.match(rest) else Kind.JSON


def bare(name: str) -> str:
    """Return a file's name in small letters, without the end that tells of gzip."""
    return name.casefold().removesuffix(".gz")
