"""CSV records: the output of csv.writer comes back, nothing raises, and a later run continues at any record."""

import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workers.ingestion.csv_records import MAX_RUNAWAYS, REPLACEMENT, CsvRecords, Damage, Dialect

HOSTILE = st.text(alphabet='ab,;"\n\r\t|\x00\x0b\x1c\u2028é😀', max_size=120)
CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12) | st.sampled_from(
    ['"', '""', "\r", "\n", "\r\n", ",", "=1+1", "'", " ", "\u2028", "a\rb"]
)
TABLE = st.lists(st.lists(CELL, min_size=1, max_size=5), max_size=12)


def pieces(text, size):
    return [text[at : at + size] for at in range(0, len(text), size)]


def read(text, *, size=7, skip=0, limit=60, delimiter=",", lossy=False):
    """Return every record with the line it starts at, the line reached after it, and the reader."""
    reader = CsvRecords(Dialect(delimiter), skip=skip, limit=limit, lossy=lossy)
    found = []
    for piece in pieces(text, size):
        found += [(record, reader.start, reader.line) for record in reader.feed(piece)]
    found += [(record, reader.start, reader.line) for record in reader.feed("", final=True)]
    return found, reader


def records(text, **options):
    return [record for record, _, _ in read(text, **options)[0]]


@given(TABLE, st.sampled_from([",", ";", "\t", "|"]), st.integers(1, 40), st.booleans())
def test_what_a_writer_wrote_comes_back_exactly(table, delimiter, size, quote_all):
    """With any cells, and with the text cut into pieces of any size."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL).writerows(table)

    assert records(text.getvalue(), size=size, limit=10_000, delimiter=delimiter) == table


@given(HOSTILE, st.integers(1, 30), st.integers(1, 30))
@example('a",""",\na",""",\n', 3, 50)
@example("a\r", 1, 2)
def test_no_text_is_refused_and_its_pieces_do_not_matter(text, one, other):
    """Each physical line is consumed once, and the result depends only on the text."""
    found, reader = read(text, size=one)

    assert found == read(text, size=other)[0]
    assert reader.line == len(io.StringIO(text, newline="").readlines())
    assert [start for _, start, _ in found] == sorted({start for _, start, _ in found})
    assert all(start <= end for _, start, end in found)


@given(HOSTILE, st.integers(1, 20))
def test_reading_continues_after_any_record(text, size):
    """A run that skips to the position of another run reads the records that the other one would have read next."""
    found, _ = read(text)

    for number, (_, _, line) in enumerate(found, 1):
        assert read(text, skip=line, size=size)[0] == found[number:]


@given(HOSTILE)
def test_replaced_characters_are_counted_once_over_all_runs(text):
    """A run does not count the characters before its beginning: another run did."""
    found, whole = read(text, lossy=True)

    for _, _, line in found:
        first = CsvRecords(Dialect(","), limit=60, lossy=True)
        before = [first.replaced for _ in first.feed(text, final=True) if first.line == line]
        assert before[0] + read(text, skip=line, lossy=True)[1].replaced == whole.replaced


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_any_system_ends_them(end):
    """A lone CR, too. A line end inside quotes is text, and counts as a line."""
    found, reader = read(f'a,"b{end}c"{end}{end}d{end}')

    assert [(record, start) for record, start, _ in found] == [(["a", f"b{end}c"], 1), (["d"], 4)]
    assert reader.line == 4


def test_record_with_a_quote_that_is_never_closed_loses_only_its_first_line():
    """The next lines are read as if that line were not there."""
    found, _ = read('a,b\nc,"d\ne,f\ng,h\n')

    assert [(record, start) for record, start, _ in found] == [
        (["a", "b"], 1),
        (Damage.MALFORMED, 2),
        (["e", "f"], 3),
        (["g", "h"], 4),
    ]


def test_quote_that_closes_beyond_the_limit_counts_as_open():
    """The size of the pieces in memory must not decide what a record is."""
    text = '"' + "x\n" * 30 + 'y"\nz\n'

    assert records(text, size=1000)[0] is Damage.MALFORMED
    assert records(text, size=1000) == records(text, size=1)


def test_line_beyond_the_limit_is_one_record_that_is_too_long():
    """It is skipped in bounded memory. A record that was open before it cannot close in it."""
    reader = CsvRecords(Dialect(","), limit=60)
    found = list(reader.feed('a\n"b\n'))
    for _ in range(1_000):
        found += reader.feed("x" * 50)
        assert len(reader._partial) <= 110
    found += reader.feed('"\r')
    found += reader.feed("\nc\n", final=True)

    assert found == [["a"], Damage.MALFORMED, Damage.TOO_LONG, ["c"]]
    assert reader.line == 4


def test_file_of_only_open_quotes_is_skipped_in_the_end():
    """Each line would cost a read of the whole limit: a hostile file must not take hours."""
    lines = 2 * MAX_RUNAWAYS
    text = 'a",""",\n' * lines

    found = records(text, size=1_000, limit=800)

    assert found == [Damage.MALFORMED] * lines


def test_no_run_continues_between_lines_that_are_skipped_together():
    """After every other record, a later run reads the records that this one would have read."""
    limit = 60
    text = '"a","b\n' * (MAX_RUNAWAYS + 3) + "x,y\n" * 40
    reader = CsvRecords(Dialect(","), limit=limit)
    places = [
        (record, reader.line, reader.runaways, reader.giving_up)
        for piece in (*pieces(text, 50), None)
        for record in reader.feed(piece or "", final=piece is None)
    ]
    everything = [record for record, *_ in places]
    assert any(giving_up for *_, giving_up in places)

    for number, (_, line, runaways, giving_up) in enumerate(places):
        if giving_up or number % 7:
            continue
        later = CsvRecords(Dialect(","), limit=limit, skip=line, runaways=runaways)
        rest = [record for piece in pieces(text, 50) for record in later.feed(piece)]
        rest += later.feed("", final=True)
        assert rest == everything[number + 1 :], (number, line)


def test_nul_becomes_a_character_that_postgres_takes():
    """It is counted. A replacement character of the file is not counted."""
    found, reader = read(f"a\x00\x00,{REPLACEMENT}\n")

    assert [record for record, _, _ in found] == [[f"a{REPLACEMENT * 2}", REPLACEMENT]]
    assert reader.replaced == 2


def test_lines_of_a_file_are_those_of_its_line_ends_only():
    """Other line boundaries of Python are text."""
    cells = [f"a{odd}b" for odd in "\x0b\x0c\x1c\x85\u2028"]

    assert [start for _, start, _ in read("".join(f"{cell}\n" for cell in cells))[0]] == [1, 2, 3, 4, 5]
