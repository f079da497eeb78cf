"""Chunks: every record of any file is counted once, and COPY reads the rows back unchanged."""

import asyncio
import json
import re
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.ingestion import chunks
from workers.ingestion.chunks import MAX_CONTENT_CHARS, MAX_CREATOR_CHARS, RecordIds
from workers.ingestion.data_file import DataFile
from workers.ingestion.encodings import Detector
from workers.ingestion.export import neutralise
from workers.ingestion.layout import MAX_EXTRA_CELLS
from workers.ingestion.record_counts import MAX_LINES_KEPT, RecordCounts, counts_from_row
from workers.ingestion.refusals import Unreadable

FIRST = UUID("019abcde-0000-7000-8000-7fffffffffff")
UNESCAPED = {"\\\\": "\\", "\\n": "\n", "\\r": "\r", "\\t": "\t"}


def unescaped(cell):
    return None if cell == "\\N" else re.sub(r"\\.", lambda found: UNESCAPED[found[0]], cell)


def rows_of(chunk):
    """Return the rows that Postgres would read from the chunk's bytes."""
    lines = chunk.copied.decode().split("\n")[:-1]
    return [[unescaped(cell) for cell in line.split("\t")] for line in lines]


def made_of(content, *, mapping=None, skip=0, type_="TASK", piece=50):
    """Return the chunks of a whole file."""

    async def pieces():
        for at in range(0, len(content), piece):
            yield content[at : at + piece]

    async def run():
        detector = Detector()
        detector.feed(content)
        async with DataFile(pieces(), name="f.csv", encoding=detector.finish()) as file:
            await file.open(mapping or {}, type_=type_, ids=RecordIds(FIRST), skip=skip)
            found = []
            while chunk := await file.next_chunk():
                found.append(chunk)
            return found

    return asyncio.run(run())


def total(chunk):
    return len(chunk.rows) + len(chunk.twins) + chunk.counts.skipped_count


def test_row_is_what_postgres_reads_back():
    """Backslashes, tabs, line ends and characters that JSON escapes do not change."""
    hostile = 'a\\n\t"\r\n\\.\x01\x7f%s\u2028😀'

    (chunk,) = made_of(f'text,author\n"{hostile.replace(chr(34), chr(34) * 2)}",b\\N\n'.encode(), piece=10_000)

    ((id_, content, metadata, *others),) = rows_of(chunk)
    assert RecordIds(FIRST).line(UUID(id_)) == 2
    assert content == hostile
    assert json.loads(metadata) == {"text": hostile, "author": "b\\N"}
    assert others == [None, "b\\N", "b\\N", None]


@given(st.text('ab,"\n\r\\\t;% é', max_size=200))
def test_any_file_below_its_header_is_counted_to_the_last_record(body):
    """Saved or skipped for a reason: nothing is raised, and a column's name may be anything."""
    content = f"text,%s\\,100%\n{body}".encode()

    for chunk in made_of(content):
        assert total(chunk) == chunk.records
        assert [json.loads(row[2])["text"] == row[1] for row in rows_of(chunk)] == [True] * len(chunk.rows)
        assert sorted(chunk.rows) == [row[1] for row in rows_of(chunk)]


@given(st.binary(max_size=300))
def test_any_bytes_are_counted_or_refused_in_one_line(content):
    """Any bytes that are handed in as a CSV."""
    try:
        found = made_of(b"text\n" + content) if content[:1] != b"\xff" else made_of(content)
    except Unreadable as refusal:
        assert "\n" not in str(refusal)  # noqa: PT017 - either way is allowed
        return

    assert all(total(chunk) == chunk.records for chunk in found)


def test_chunks_are_bounded_and_cut_nothing(monkeypatch):
    """By records and by characters. Each chunk continues where the one before ended."""
    monkeypatch.setattr(chunks, "CHUNK_RECORDS", 4)
    content = b"text\n" + b"".join(b"row %d\n" % n for n in range(10))

    by_records = made_of(content)
    monkeypatch.setattr(chunks, "CHUNK_CHARACTERS", 100)
    by_characters = made_of(content)

    assert [(chunk.records, chunk.line) for chunk in by_records] == [(4, 5), (4, 9), (2, 11)]
    assert [chunk.records for chunk in by_characters] == [2, 2, 2, 2, 2]


def test_twins_of_a_chunk_are_listed_with_the_line_that_was_first():
    """The database gets the content once, and its result decides about the twins."""
    (chunk,) = made_of(b"text\na\nb\na\n\na\n")

    assert sorted(chunk.rows) == ["a", "b"]
    assert chunk.twins == {4: 2, 6: 2}


def test_ids_ascend_with_the_lines_of_the_file():
    """The order of ids is the order of the file, although rows are saved sorted by content."""
    (chunk,) = made_of(b"text\nz\ny\nx\n")

    assert [row[1] for row in sorted(rows_of(chunk))] == ["z", "y", "x"]
    assert len({row[0][:20] for row in rows_of(chunk)}) == 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{long},,", "too_long"),
        ("a,,," + "," * (MAX_EXTRA_CELLS + 1), "malformed"),
        ("a,nonsense,", "invalid_category"),
        (",nonsense,", "empty_content"),
        ("\u3000 \t,,", "empty_content"),
        (",nonsense,Feedback", "other_type"),
    ],
)
def test_record_that_cannot_be_saved_has_one_reason(row, reason):
    """The first one that applies: another type, no content, then other faults."""
    text = row.replace("{long}", "x" * (MAX_CONTENT_CHARS + 1))

    (chunk,) = made_of(f"text,category,type\n{text}\n".encode(), mapping={"category": "category"}, piece=1_000_000)

    assert chunk.counts.details() == {reason: {"count": 1, "lines": [2]}}


def test_creator_is_one_column_or_several():
    """The creator column is used for the id and the name if these have no column. Long names are cut."""
    (one,) = made_of(b"text,author\na," + b"x" * 300 + b"\n")
    (several,) = made_of(b"text,author,user_id,email\na,Ann,7, a@b.test \n")

    assert rows_of(one)[0][4:] == ["x" * MAX_CREATOR_CHARS, "x" * MAX_CREATOR_CHARS, None]
    assert rows_of(several)[0][4:] == ["7", "Ann", "a@b.test"]


def test_counts_add_up_and_keep_the_first_lines():
    """Over any number of chunks."""
    first, second = RecordCounts(saved=1), RecordCounts(saved=2)
    for line in range(2, 40):
        (first if line < 15 else second).skip("malformed", line)

    both = first.plus(second)

    assert (both.saved, both.skipped_count, both.total) == (3, 38, 41)
    assert both.details() == {"malformed": {"count": 38, "lines": list(range(2, 2 + MAX_LINES_KEPT))}}
    assert counts_from_row(3, both.details()) == both


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_cell_that_a_spreadsheet_would_compute_gets_an_apostrophe(cell):
    """Other cells do not change."""
    assert neutralise(cell) == f"'{cell}"
    assert neutralise(f"a{cell}") == f"a{cell}"
    assert neutralise("") == ""
