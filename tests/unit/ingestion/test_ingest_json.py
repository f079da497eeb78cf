"""JSON records: written records come back, nothing raises, and a later run continues at any record."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.fakes.files import gzipped, json_lines, seen
from workers.ingestion.csv_records import REPLACEMENT, Damage
from workers.ingestion.json_records import JsonItems, JsonLines, arrays_after, find_items
from workers.ingestion.objects import MAX_JSON_DEPTH, columns_of, field_text, field_value
from workers.ingestion.refusals import Unreadable

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(TEXT, inside, max_size=3),
    max_leaves=6,
)
RECORDS = st.lists(st.dictionaries(TEXT, VALUE, max_size=4), max_size=6)
HOSTILE = st.text('{}[]",:\\ntrue1\r\n é\ud83d\x00', max_size=60)


def items(text, *, size=7, skip=0, limit=1_000):
    """Return each item after the array's bracket with its number, and the reader."""
    reader = JsonItems(skip=skip, limit=limit)
    found = []
    for at in range(0, len(text), size):
        found += [(record, reader.start) for record in reader.feed(text[at : at + size])]
    found += [(record, reader.start) for record in reader.feed("", final=True)]
    return found, reader


def lines(text, *, size=7, skip=0, limit=1_000):
    reader = JsonLines(skip=skip, limit=limit)
    found = []
    for at in range(0, len(text), size):
        found += [(record, reader.start) for record in reader.feed(text[at : at + size])]
    return found + [(record, reader.start) for record in reader.feed("", final=True)], reader


@given(RECORDS, st.integers(1, 30), st.sampled_from([None, 1]), st.booleans())
def test_what_a_writer_wrote_as_an_array_comes_back(records, size, indent, ascii_only):
    """With any indentation, and with the text cut into pieces of any size."""
    text = json.dumps(records, indent=indent, ensure_ascii=ascii_only)
    begin = find_items(text, whole=True)

    found, reader = items(text[begin.at :], size=size, limit=10_000)

    assert found == [(record, number) for number, record in enumerate(records, 1)]
    assert (reader.ended, reader.cut_short) == (True, False)


@given(RECORDS, st.integers(1, 30))
def test_what_a_writer_wrote_line_by_line_comes_back(records, size):
    """Each with the number of its line."""
    found, _ = lines(json_lines(records).decode(), size=size, limit=10_000)

    assert found == [(record, number) for number, record in enumerate(records, 1)]


@given(HOSTILE, st.integers(1, 20), st.integers(1, 20))
@example('{"a":"\\', 3, 5)
@example("}}1,{}]", 1, 20)
def test_no_text_is_refused_and_its_pieces_do_not_matter(text, one, other):
    """The result depends only on the text, and every item and line is counted once."""
    for read in (items, lines):
        found, _ = read(text, size=one)
        assert found == read(text, size=other)[0]
        assert [number for _, number in found] == sorted({number for _, number in found})


@given(HOSTILE, st.integers(1, 20))
def test_reading_continues_after_any_record(text, size):
    """A run that skips to the position of another run reads the records that the other one would have read next."""
    for read in (items, lines):
        found, _ = read(text)
        for place, (_, number) in enumerate(found, 1):
            assert read(text, skip=number, size=size)[0] == found[place:]


@given(HOSTILE)
def test_any_beginning_has_items_or_is_refused_in_one_line(text):
    """With any text after the brace."""
    try:
        find_items("{" + text, whole=True)
    except Unreadable as refusal:
        assert "\n" not in str(refusal)  # noqa: PT017 - either way is allowed


def test_only_the_item_that_cannot_be_read_is_lost():
    """The items after it are read. A number is not a record either."""
    found, _ = items('{"a": 1}, {"a": oops, "b": "]}"}, 5, tru, {"a": 2}}, {"a": 3}]')

    assert [record for record, _ in found if not isinstance(record, Damage)] == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert [number for record, number in found if record is Damage.MALFORMED] == [2, 3, 4, 6]


def test_array_that_does_not_end_is_said_to_be_cut_short():
    """The item that is cut is malformed."""
    found, reader = items('{"a": 1}, {"a": 2, "b')

    assert found == [({"a": 1}, 1), (Damage.MALFORMED, 2)]
    assert reader.cut_short
    assert "cut_short" in seen(b'[{"text": "a"}, {"te').warnings


def test_item_beyond_the_limit_is_too_long_and_never_held():
    """With any content: brackets in its texts close nothing."""
    reader = JsonItems(limit=50)
    found = list(reader.feed('{"a": "'))
    for _ in range(1_000):
        found += reader.feed('x]}\\"' * 5)
        assert len(reader._text) < 150
    found += reader.feed('"}, {"b": 1}]', final=True)

    assert found == [Damage.TOO_LONG, {"b": 1}]
    assert [record for record, _ in lines('{"a": "' + "x" * 90 + '"}\n{"b": 1}\n', limit=50)[0]] == [
        Damage.TOO_LONG,
        {"b": 1},
    ]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("1e5000", "1e5000"),
        ("9" * 5_000, "9" * 5_000),
        ("12345678901234567890", 12345678901234567890),
        (r'"\ud83d"', REPLACEMENT),
        (r'"\ud83d\ude00"', "😀"),
        (r'"a\u0000\\u0000"', f"a{REPLACEMENT}\\u0000"),
    ],
)
def test_value_that_could_not_be_read_back_from_postgres_is_kept_as_text(value, kept):
    """Numbers beyond a double, very long numbers, half surrogate pairs, NULs."""
    [(record, _)], _ = items(f'{{"a": {value}}}]', limit=10_000)

    assert record == {"a": kept}


def test_object_nested_beyond_any_use_is_malformed():
    """One level too many, or thousands."""
    for depth in (MAX_JSON_DEPTH + 1, 900, 5_000, 100_000):
        nested = f'{{"a": {"[" * depth}{"]" * depth}}}'
        assert [record for record, _ in items(f"{nested}, {{}}]", size=9_999, limit=10**6)[0]] == [Damage.MALFORMED, {}]
        assert lines(nested, size=9_999, limit=10**6)[0] == [(Damage.MALFORMED, 1)]


def test_fields_inside_of_an_object_are_columns_with_a_dot():
    """They can be mapped. A field with a dot in its own name is found, too."""
    record = {"a": {"b": {"c": 1}, "d": []}, "e.f": "x", "g": {}, "h.i": {"j": True}}

    assert columns_of([record]) == ("a.b.c", "a.d", "e.f", "g", "h.i.j")
    assert [field_text(record, name) for name in columns_of([record])] == ["1", "[]", "x", "{}", "true"]
    assert field_value(record, "a.x") is None


def test_metadata_is_the_object_as_it_was_and_columns_are_those_of_the_first_records():
    """Later records may have more fields."""
    found = seen(json_lines([{"meta": {"text": "a"}, "n": 1}, {"n": 2, "more": [1]}]), mapping={"content": "meta.text"})

    assert found.columns == ("meta.text", "n", "more")
    assert found.details == {"empty_content": {"count": 1, "lines": [2]}}


def test_array_of_an_object_is_found_wherever_it_stands():
    """Arrays of other values are not records. A second array of objects is reported."""
    head = '{"n": [1, 2], "s": "[{", "rows": [{"text": "a"}, {"text": "b"}]'

    assert find_items(head, whole=False).within == "rows"
    assert arrays_after(', "x": {"y": [{}]}, "other": [ {"text": "c"}]}') == ["other"]
    many = (
        b'{"rows": [' + b",".join([b'{"text": "row %d"}' % n for n in range(60_000)]) + b'], "other": [{"text": "c"}]}'
    )
    found = seen(gzipped(many), piece=100_000)
    assert (found.total, found.read_as["array"]) == (60_000, "rows")
    assert "other_arrays" in found.warnings


def test_objects_one_after_the_other_are_items():
    """Some tools print them so, over several lines."""
    found = seen(b'{\n "text": "a"\n}\n{\n "text": "b"\n}\n', name="f.json")

    assert [row.content for row in found.first_rows] == ["a", "b"]
    assert "cut_short" not in found.warnings


@pytest.mark.parametrize(
    "content",
    ['[{"text": "a"}][{"text": "b"}]', '[{"text": "a"}]\n{"text": "b"}', '{"rows": [{"text": "a"}]} [{"text": "b"}]'],
)
def test_text_after_the_first_value_is_reported(content):
    """It is not read, so it is a problem that is shown first, and ``--strict`` fails."""
    found = seen(content.encode(), name="f.json")

    assert found.total == 1
    assert "more_behind" in found.warnings


@pytest.mark.parametrize("content", ['[{"text": "a"}]\n \n', '{"rows": [{"text": "a"}], "n": 1}\n', '[{"text": "a"}'])
def test_blanks_and_members_behind_an_array_are_no_more_records(content):
    assert "more_behind" not in seen(content.encode(), name="f.json").warnings
