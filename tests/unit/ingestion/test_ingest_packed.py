"""Packed files are unpacked within limits: gzip as a stream, workbooks in a process of their own."""

import asyncio
import io
import random
import time
import zipfile
from datetime import UTC, date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fakes.files import gzipped, seen, workbook
from workers.ingestion import gunzip as gunzipping
from workers.ingestion import workbook as workbooks
from workers.ingestion.gunzip import gunzip
from workers.ingestion.refusals import Unreadable
from workers.ingestion.workbook import open_sheet

# XML has no control characters, and openpyxl reads text that begins with = as a formula.
CELL = st.text(st.characters(exclude_categories=["Cs", "Cc"], max_codepoint=0xFFFD), min_size=1, max_size=12).filter(
    lambda text: not text.startswith("=") and text.strip() == text and "_x" not in text
)
TABLE = st.lists(st.lists(CELL, min_size=2, max_size=2), min_size=1, max_size=6)


def unfolded(content, *, size=1_000):
    async def pieces():
        for at in range(0, len(content), size):
            yield content[at : at + size]

    async def run():
        return [piece async for piece in gunzip(pieces())]

    return asyncio.run(run())


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4), st.integers(1, 60), st.binary(max_size=0))
def test_packed_bytes_come_back(members, size, padding):
    """Several gzip members are one file, as ``cat`` makes it."""
    packed = b"".join(map(gzipped, members))

    assert b"".join(unfolded(packed + padding, size=size)) == b"".join(members)


@pytest.mark.parametrize("padding", [b"\x00" * 700, b"garbage"])
def test_padding_after_the_last_member_is_ignored(padding):
    """Tapes and some tools add it."""
    assert b"".join(unfolded(gzipped(b"text\na\n") + padding, size=11)) == b"text\na\n"


def test_gzip_that_expands_more_than_any_table_is_stopped_early(monkeypatch):
    """It is unpacked in pieces of 1 MiB, so in bounded memory. A file with a small ratio is read to its end."""
    monkeypatch.setattr(gunzipping, "MIN_RATIO_BYTES", 4 * 1024 * 1024)
    bomb = gzipped(bytes(64 * 1024 * 1024))

    with pytest.raises(Unreadable, match="expands to more than 200 times its size, which no table does"):
        unfolded(bomb)
    sound = random.Random(1).randbytes(64 * 1024) * 100
    assert max(map(len, unfolded(gzipped(sound), size=10_000))) <= gunzipping.MAX_GUNZIP_PIECE_BYTES


def test_gzip_may_hold_every_kind():
    """The description of how it was read says so."""
    for content in (b"text\na\n", b'[{"text": "a"}]', b'{"text": "a"}\n{"text": "b"}\n'):
        found = seen(gzipped(content), piece=3)
        assert (found.first_rows[0].content, found.read_as["packed"]) == ("a", "gzip")


@given(TABLE)
@settings(max_examples=40)
def test_saved_workbook_comes_back(table):
    """With the numbers of its rows."""
    sheet = open_sheet(io.BytesIO(workbook([["a", "b"], *table])))

    assert list(sheet.rows) == [(number, row) for number, row in enumerate([["a", "b"], *table], 1)]


def test_workbook_is_read_as_a_person_sees_it():
    """The first visible sheet; whole numbers without a fraction, times in ISO format; empty rows keep their numbers."""
    moment = datetime(2026, 5, 1, 12, 30, tzinfo=UTC).replace(tzinfo=None)
    content = workbook(
        [
            ["Report of May"],
            [],
            ["text", "n", "when", "day", "ok", None],
            [],
            ["a", 3, moment, date(2026, 5, 1), True],  # type: ignore[list-item] # openpyxl takes dates, too
            ["b", 1.5, None, None, False, "beyond"],
            ["a", 1, None, None, None],
        ],
        hidden=True,
    )

    found = seen(content, skip_rows=2, piece=100)

    assert [(row.line, row.content) for row in found.first_rows] == [(5, "a"), (6, "b")]
    assert found.columns == ("text", "n", "when", "day", "ok")
    assert found.read_as == {"kind": "an Excel workbook", "sheet": "Data"}
    assert found.details == {"duplicate_in_file": {"count": 1, "lines": [7]}}
    assert found.warnings["rows_cut"] == {"count": 1, "lines": [6]}
    assert found.warnings["sheets_not_read"] == "'Lookup'"
    rows = dict(open_sheet(io.BytesIO(content)).rows)
    assert rows[5] == ["a", "3", "2026-05-01T12:30:00", "2026-05-01", "true"]


def zipped(**parts):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return made.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (zipped(**{"a.csv": b"text\n"}), "this is a zip archive, which holds 'a.csv': unpack it"),
        (zipped(**{"word/document.xml": b"<a/>"}), "this is no table: it is a Word document"),
        (
            zipped(mimetype=b"x", **{"content.xml": b"<a/>"}),
            "this is an OpenDocument file: save it again",
        ),
        (zipped(**{"xl/workbook.bin": b""}), "this is a binary Excel file (.xlsb)"),
        (zipped(**{"xl/workbook.xml": b"<workbook/>"}), "this is a zip or an Excel file, and it is damaged"),
        (workbook([["text"], ["a"]])[:-40], "this is a zip or an Excel file, and it is damaged"),
        (workbook([]), "the workbook's sheet 'Data' is empty: it has no header"),
        (
            zipped(**{"xl/workbook.xml": bytes(200 * 1024 * 1024)}),
            "the workbook expands to more than 200 times",
        ),
    ],
)
def test_zip_that_is_not_a_valid_workbook_is_refused_in_one_line(content, said):
    """The line says what it contains, and what to do."""
    with pytest.raises(Unreadable) as refusal:
        seen(content, piece=100_000)

    assert str(refusal.value).startswith(said)
    assert "\n" not in str(refusal.value)


def test_xml_entities_of_a_workbook_read_no_file(tmp_path):
    """A file that the XML names is not read."""
    secret = tmp_path / "secret"
    secret.write_text("TOP SECRET")
    sound = zipfile.ZipFile(io.BytesIO(workbook([["text"], ["a"]])))
    doctype = f'<!DOCTYPE x [<!ENTITY e SYSTEM "file://{secret}">]>'.encode()
    parts = {name: sound.read(name) for name in sound.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    assert b">a<" in parts[sheet]
    parts[sheet] = parts[sheet].replace(b"<worksheet", doctype + b"<worksheet", 1).replace(b">a<", b">&e;<")

    try:
        found = seen(zipped(**parts))
    except Unreadable:
        return
    assert "SECRET" not in str(found)


def test_workbook_that_needs_too_much_memory_is_stopped(monkeypatch):
    """Only the process that reads it ends."""
    monkeypatch.setattr(workbooks, "MAX_WORKBOOK_MEMORY_BYTES", 300 * 1024 * 1024)
    sound = zipfile.ZipFile(io.BytesIO(workbook([["text"], ["a"]])))
    parts = {name: sound.read(name) for name in sound.namelist()}
    cells = "".join(f'<c r="{letter}2"><v>{random.Random(2).random()}</v></c>' for letter in "ABCDEFGHIJ").encode()
    begin, end = parts["xl/worksheets/sheet1.xml"].split(b"</sheetData>")
    far = b'<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
    parts["xl/worksheets/sheet1.xml"] = begin + b'<row r="2">' + cells + b"</row>" + far + b"</sheetData>" + end
    begun = time.monotonic()

    with pytest.raises(Unreadable, match="the workbook needs too much memory or time to be read: save it as CSV"):
        seen(zipped(**parts))

    assert time.monotonic() - begun < 60


def test_formulas_without_a_stored_value_are_counted_and_reported():
    """Some programs write them. Their cells are empty, and a row with only such cells is an empty row."""
    content = workbook([["text", "n"], ["a", "=1+1"], ["=1+1", "=2+2"], ["b", 3]])

    assert open_sheet(io.BytesIO(content)).unsaved_formulas == 3
    assert seen(content).warnings["formulas_without_values"].startswith("3 cells have a formula but no stored value")


def test_formulas_with_a_value_are_not_reported():
    plain = workbook([["text"], ["a"]])

    assert "formulas_without_values" not in seen(plain).warnings
