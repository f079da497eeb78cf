"""What is told from the beginning of a file: its encoding, its delimiter, its columns and what they mean."""

import codecs
import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.ingestion.dialect import detect_delimiter
from workers.ingestion.encodings import Detector, decoder
from workers.ingestion.layout import MAX_COLUMNS, column_names, extra_names, read_layout
from workers.ingestion.mapping import category, check_mapping, is_other_type, locate
from workers.ingestion.refusals import Unreadable
from workers.ingestion.unwrapping import HEAD_BYTES

TEXT = "name,text\nZoë,“naïve”\n" * 3


def detected(content, size=5):
    detector = Detector()
    for at in range(0, len(content), size):
        detector.feed(content[at : at + size])
    return detector.finish()


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (TEXT.encode(), "utf-8"),
        (b"plain", "utf-8"),
        (b"", "utf-8"),
        (codecs.BOM_UTF8 + TEXT.encode(), "utf-8-sig"),
        (TEXT.encode("utf-16"), "utf-16"),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "utf-16"),
        (TEXT.encode("utf-32"), "utf-32"),
        (TEXT.encode("utf-16-le"), "utf-16-le"),
        (TEXT.encode("utf-16-be"), "utf-16-be"),
        ("a,b\nпривет,мир 1\n".encode("utf-16-le") * 9, "utf-16-le"),
        (TEXT.encode("cp1252"), "cp1252"),
        (TEXT.encode() + b"\xe9", "utf-8-sig"),
        (TEXT.encode() + b"\xe2\x82", "utf-8-sig"),
        ("a,b\nnaïve café\n".encode() * 30 + b"caf\xe9", "utf-8-sig"),  # one damage, sixty good bytes: read as UTF-8
        ("a,b\nnaïve café\n".encode() * 30 + b"caf\xc3", "utf-8-sig"),  # cut within a character
        ("Größe;Übermut\n".encode("cp1252") * 30, "cp1252"),
        (b"a,b\nsome,more text\x00 here\n" * 9, "utf-8"),
    ],
)
def test_encoding_is_detected_from_the_bytes(content, encoding):
    """By the byte order mark, by NULs, or as UTF-8 with few damaged bytes. Otherwise by a fallback that decodes."""
    found = detected(content)

    assert found == encoding
    assert detected(content, size=10_000) == encoding
    if encoding not in {"cp1252", "utf-8"} or content == TEXT.encode():
        assert decoder(found).decode(content, final=True).removeprefix("\ufeff").startswith(("name,text\nZoë", "a,b"))


@given(st.binary(max_size=200))
def test_any_bytes_have_an_encoding_that_decodes_them(content):
    """No byte is refused, and every result can be stored as UTF-8."""
    decoder(detected(content)).decode(content, final=True).encode("utf-8")


CELL = st.text("abcdefg hijk", min_size=1, max_size=9)


@given(st.sampled_from([",", ";", "\t", "|"]), st.integers(2, 5), st.data())
def test_delimiter_of_written_csv_is_detected(delimiter, width, data):
    """Also if quoted cells contain line ends, quotes and the other delimiters."""
    messy = st.text('ab,;\t|"\n', max_size=9)
    table = [data.draw(st.lists(CELL, min_size=width, max_size=width))]
    table += data.draw(st.lists(st.lists(messy, min_size=width, max_size=width), min_size=1, max_size=6))
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(table)

    assert detect_delimiter(text.getvalue()) == delimiter


@pytest.mark.parametrize(
    ("head", "delimiter"),
    [
        ("text\nhello\n", ","),
        ("id;text\n1;a, b, c\n2;d, e\n", ";"),
        ("id,text\n1,a; b; c\n2,d\n", ","),
        ("a|b|c\n1,5|2,5|3\n", "|"),
        ('id,text\n1,"a\nb;c;d"\n2,x\n3,y,z\n', ","),
        ("", ","),
    ],
)
def test_delimiter_of_hand_made_files_is_detected(head, delimiter):
    """First by the header, then by the number of records that fit it."""
    assert detect_delimiter(head) == delimiter


def test_every_column_has_a_name_of_its_own():
    """Empty names become numbered by position, repeated names get a suffix, and existing names are not used twice."""
    assert column_names(["a", "", "a ", "a", "column_2"]) == ("a", "column_2_2", "a_2", "a_3", "column_2")
    assert column_names(["a", "a_2", "a"]) == ("a", "a_2", "a_3")
    assert extra_names(["a", "column_4", "b"], 2) == ("column_4_2", "column_5")


@given(st.lists(st.sampled_from(["", " ", "a", "a_2", "column_1", "column_2", "column_2_2"]), min_size=1, max_size=9))
def test_column_names_are_unique_whatever_the_header(header):
    """Otherwise metadata would lose a cell."""
    names = column_names(header)

    assert len({*names, *extra_names(names, 3)}) == len(header) + 3


@pytest.mark.parametrize(
    ("head", "whole", "said"),
    [
        ("", True, "the file is empty: it has no header"),
        ("\n\r\n", True, "the file is empty: it has no header"),
        ('a,"b\nc\n', True, "the header, line 1 of the file, has a quote that is never closed"),
        ('a,"b\nc\n', False, f"the header must end within the first {HEAD_BYTES:,} bytes of the file"),
        ("a," * MAX_COLUMNS + "\n", True, f"the header must name at most {MAX_COLUMNS:,} columns, got 2,001"),
    ],
)
def test_file_without_a_usable_header_is_refused_in_one_line(head, whole, said):
    """The line says what is wrong."""
    with pytest.raises(Unreadable) as refusal:
        read_layout(head, whole=whole)

    assert str(refusal.value) == said


def test_header_may_span_lines_and_follow_empty_ones():
    """Records begin after all of them."""
    layout = read_layout('\n"a\nb";c\n1;2\n', whole=True)

    assert (layout.columns, layout.dialect.delimiter, layout.header_lines) == (("a\nb", "c"), ";", 3)


def test_columns_are_found_by_their_names_in_any_spelling():
    """The most likely name wins, not the first column. Mapped fields are not guessed."""
    places = locate({"category": "Label"}, ["Message", "PROMPT", "label", "Created By", "creatorEmail"])

    assert places.at == {"content": 1, "category": 2, "creator": 3, "creator_email": 4}
    assert places.found == {"content": "PROMPT", "creator": "Created By", "creator_email": "creatorEmail"}


def test_mapping_is_exact_before_it_is_lenient_and_may_say_none():
    """A file may have columns that differ only by case, and a column that looks like a field but is not one."""
    columns = ["Text", "text", "type", "category"]

    assert locate({"content": "text", "type": "", "category": ""}, columns).at == {"content": 1}
    assert locate({"content": "TEXT", "type": "", "category": ""}, columns).at == {"content": 0}


@pytest.mark.parametrize("mapping", [{"body": "a"}, {"content": " "}])
def test_mapping_that_no_file_could_match_is_refused(mapping):
    """Before anything is read."""
    with pytest.raises(ValueError, match="mapping"):
        check_mapping(mapping)


@pytest.mark.parametrize(
    ("cell", "meant"),
    [
        ("TOP_10", "TOP_10"), ("top 10", "TOP_10"), ("Top-10", "TOP_10"), ("Bottom10", "BOTTOM_10"), ("", ""),
        (" \t", ""), ("top", None), ("--", None), ("0", None),
    ],
)  # fmt: skip
def test_category_is_read_in_any_spelling(cell, meant):
    """Nothing is guessed beyond the spelling."""
    assert category(cell) == meant


def test_only_the_other_record_type_is_another_type():
    """Many files have a column with that name and another meaning."""
    assert [is_other_type(cell, "TASK") for cell in ("feedback ", "TASK", "", "image")] == [True, False, False, False]
