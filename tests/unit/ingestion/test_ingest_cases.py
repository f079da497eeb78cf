"""Real files that once failed: their results now, and the messages about them."""

import codecs

import pytest

from tests.support.fakes.files import gzipped, json_lines, seen, workbook
from tests.support.paths import CASES
from workers.ingestion.outcome_lines import file_problems, warning_lines
from workers.ingestion.refusals import Unreadable

PASSED_OVER = (
    "columns passed over: category: 'Category', because its values, such as 'HR', are not categories (kept in metadata)"
)
INVISIBLE = [
    "\u200b",
    "\ufeff",
    "\u00a0",
    "\u00ad",
    "\u3164",
    "\u115f\u1160",
    "\u2060\u200d",
    "\u2800",
    "\ufe0f",
    "\x01",
]


def case(name):
    return (CASES / name).read_bytes()


def contents(found):
    return [row.content for row in found.first_rows]


def told(found):
    return file_problems(
        total=found.total, skipped=found.skipped, details=found.details, warnings=found.warnings, read_as=found.read_as
    )


def refusal(content, **options):
    with pytest.raises(Unreadable) as refused:
        seen(content, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_line_that_names_the_delimiter_is_not_the_header():
    """Excel writes ``sep=;`` above the header. Rows keep the numbers that an editor shows."""
    found = seen(case("sep_line.csv"))

    assert contents(found) == ["write a poem, short", "name three rivers"]
    assert [(row.line, row.category) for row in found.first_rows] == [(3, "TOP_10"), (4, "BOTTOM_10")]
    assert found.read_as["delimiter"] == ";"
    assert seen(b'"sep=|"\na|text\n1|x,y\n').columns == ("a", "text")
    assert seen(b"sep=\t\r\na\ttext\n1\tx,y\n").columns == ("a", "text")


def test_row_with_more_cells_than_the_header_is_reported_as_cut():
    """Its content may end at a comma that is not quoted. Extra empty cells do not count."""
    found = seen(case("more_cells_than_header.csv"))

    assert found.would_save == 4
    assert told(found) == ["1 row has more cells than the header, so its content may be cut at a comma (line 2)"]
    assert told(seen(b"id,content\n1,a,,\n2,b, ,\n")) == []


@pytest.mark.parametrize(
    "content", [b"text,n\n", b"text,n", b"\ntext,n\n\n", gzipped(b"text,n\n"), workbook([["text", "n"]])]
)
def test_file_with_only_a_header_is_accepted_and_reported(content):
    """It has no fault, but ``--strict`` fails. A skipped row is a record."""
    found = seen(content)

    assert (found.total, found.would_save, found.skipped) == (0, 0, 0)
    assert told(found) == ["the file has 0 records: it has only a header"]
    assert told(seen(b'text,n\n"never closed,1\n')) == ["1 of 1 rows was skipped: malformed 1"]


@pytest.mark.parametrize("end", [b"\x1a", b"\x1a\r\n", b"\x1a" * 100, b"\r\n\x1a\x00\x00\x00"])
@pytest.mark.parametrize("piece", [1, 7, 1_000])
def test_end_of_file_of_dos_is_not_a_record(end, piece):
    """With or without a line end before it, and padded as old systems do."""
    found = seen(case("dos_end_of_file.csv").rstrip(b"\r\n\x1a") + end, piece=piece)

    assert (contents(found), found.total) == (["write a poem"], 1)


def test_end_of_file_of_dos_within_a_file_ends_nothing():
    """The text after it is read."""
    assert contents(seen(b"text\na\x1a\nb\n")) == ["a\x1a", "b"]


def test_one_damaged_character_does_not_change_the_others():
    """Thirteen records in UTF-8, one of them damaged and counted; nothing is read as Windows-1252."""
    found = seen(case("one_damaged_character.csv"))

    assert found.total == found.would_save == 13
    assert contents(found)[0] == "crème brûlée numéro 0"
    assert found.read_as["encoding"] == "utf-8"
    assert found.warnings["replaced_characters"] == 6


def test_column_with_the_name_category_and_other_values_skips_no_row():
    """The category of a résumé is its trade: it is kept in metadata and reported, and no row is skipped."""
    rows = "".join(f"{n},text of résumé {n},{('HR', 'CHEF', 'ARTS')[n % 3]}\n" for n in range(962))

    found = seen(f"ID,Text,Category\n{rows}".encode())

    assert (found.would_save, found.skipped) == (962, 0)
    assert "category" not in found.guessed
    assert warning_lines(found.warnings, found.read_as) == [
        "columns found: content = 'Text'",
        PASSED_OVER,
    ]


def test_mapping_that_a_person_gave_may_skip_rows_and_this_is_shown_first():
    """If most rows are skipped, the summary begins with this."""
    found = seen(b"text,Category\na,HR\nb,ARTS\nc,top 10\n", mapping={"category": "Category"})

    assert found.details == {"invalid_category": {"count": 2, "lines": [2, 3]}}
    assert told(found) == ["2 of 3 rows were skipped: invalid_category 2"]


def test_unknown_value_in_a_guessed_category_is_left_empty():
    """If most values fit, the row is saved without a category."""
    found = seen(b"text,category\na,TOP_10\nb,bottom 10\nc,excellent\n")

    assert [row.category for row in found.first_rows] == ["TOP_10", "BOTTOM_10", None]
    assert found.warnings["category_left_empty"] == {"count": 1, "lines": [4]}


@pytest.mark.parametrize(
    ("field", "content", "found"),
    [
        ("type", b"text,type\na,TASK\nb,Bug\n", False),
        ("type", b"text,type\na,TASK\nb,feedback\nc,\n", True),
        ("creator_email", b"text,email\na,yes\nb,no\n", False),
        ("creator_email", b"text,email\na,ann@x.test\nb,\n", True),
    ],
)
def test_other_guesses_must_fit_their_values_too(field, content, found):
    """Otherwise the column is only kept in metadata."""
    assert (field in seen(content).guessed) is found


def test_content_is_looked_for_where_there_are_words():
    """An empty or numeric column with a more likely name is used only if there is no other."""
    assert seen(b"content,prompt\n,a\n,b\n").guessed["content"] == "prompt"
    assert seen(b"task,description\n1,write\n2,plan\n").guessed["content"] == "description"
    assert seen(b"task,n\n1,2\n").guessed["content"] == "task"


@pytest.mark.parametrize("text", INVISIBLE)
def test_text_that_looks_empty_is_empty(text):
    """It may consist of any invisible characters."""
    found = seen(f"text,n\n{text},1\nseen{text},2\n".encode())

    assert found.details == {"empty_content": {"count": 1, "lines": [2]}}
    assert contents(found) == [f"seen{text}"]


def test_names_of_columns_are_found_without_invisible_characters_around_them():
    """A second byte order mark, a no-break space."""
    assert seen("\ufeff\ufeffcontent\u00a0,n\na,1\n".encode()).guessed["content"] == "content"


def test_quotes_after_a_backslash_are_quotes():
    """Databases write them so. Other backslashes stay."""
    found = seen(rb"id,text" + b"\n" + rb'1,"he said \"hi, there\", and C:\new\\"' + b"\n2,plain\n")

    assert contents(found) == ['he said "hi, there", and C:\\new\\', "plain"]
    assert found.read_as["escape"] == "backslash"
    assert contents(seen(b'id,text\n1,"C:\\dir\\"\n2,"a ""b"""\n')) == ["C:\\dir\\", 'a "b"']


@pytest.mark.parametrize("encoding", ["gbk", "shift_jis", "cp1251", "big5", "koi8-r", "utf-16-le"])
def test_encoding_that_is_given_is_used(encoding):
    """Encodings of other scripts are never guessed."""
    text = {"gbk": "写一首诗", "shift_jis": "詩を書く", "big5": "寫一首詩"}.get(encoding, "напиши стих")

    found = seen(f"text;n\n{text};1\n".encode(encoding), encoding=encoding)

    assert contents(found) == [text]
    assert "encoding" not in found.warnings


@pytest.mark.parametrize("encoding", ["gbk", "shift_jis", "euc_jp", "cp1251"])
def test_encoding_of_another_script_is_never_called_utf8(encoding):
    """It is read as Windows-1252, with a warning that names the option."""
    text = "にほんごのひらがなとかたかな、天気" if encoding in {"shift_jis", "euc_jp"} else "напиши стих"

    found = seen(f"text;n\n{text};1\n{text * 3};2\n".encode(encoding))

    assert found.read_as["encoding"] == "cp1252"
    assert "--encoding" in found.warnings["encoding"]


def test_options_that_are_given_are_not_detected():
    """Delimiter, quote and rows above the header."""
    report = b"Report of May\n\nid:text\n1:'a:b, c'\n"

    found = seen(report, delimiter=":", quote="'", skip_rows=2)

    assert (found.columns, contents(found)) == (("id", "text"), ["a:b, c"])
    assert found.first_rows[0].line == 4
    assert contents(seen(b'text|n\n"a|1\n', quote="none")) == ['"a']


def test_content_may_be_made_from_several_columns():
    """If all of them are empty, the content is empty, too."""
    content = b"title,description,n\nPoem,Write one,1\n,,2\nPlan,,3\n"

    found = seen(content, mapping={"content": "{title}: {Description} {{x}}"})

    assert contents(found) == ["Poem: Write one {x}", "Plan:  {x}"]
    assert found.details == {"empty_content": {"count": 1, "lines": [3]}}
    assert refusal(content, mapping={"content": "{title}: {text}"}) == (
        "content is mapped to '{title}: {text}', but 'text' is not a column of the file; its columns: "
        "'title', 'description', 'n'"
    )
    assert "a single brace" in refusal(content, mapping={"content": "{title} }"})
    assert contents(seen(b"{a},b\nx,y\n", mapping={"content": "{a}"})) == ["x"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (case("workbook_named.csv"), "this is a zip or an Excel file, and it is damaged or incomplete"),
        (b"%PDF-1.4\n1 0 obj", "this is no table: it is a PDF"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "this is no table: it is a picture (PNG)"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "this is no table: it is a picture (JPEG)"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\x00" * 90, "this is no table: it is an old or encrypted Office file"),
        (b"<!DOCTYPE html>\n<html><body>Please log in</body>", "this is no table: it is a web page (HTML)"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><a/>", "this is no table: it is XML"),
        (bytes(range(256)) * 40, "this is no table: it has too many control characters"),
        (gzipped(gzipped(b"text\na\n")), "this is gzip inside gzip"),
        (gzipped(b"text\na\n" * 900)[:-9], "the gzip file is cut short"),
        (gzipped(b"%PDF-1.4\n"), "this is no table: it is a PDF"),
        (b"\x1f\x8bnot gzip at all", "the gzip file is damaged"),
        (b'{"a": 1, "b": {"c": 2}}', "the JSON is one object without an array of objects in it"),
        (b'{"a": [{"x": 1}], "b": [{"x": 2}]}', "the JSON has several arrays of objects, 'a', 'b'"),
        (b"[]", "the JSON has no objects"),
        (b'["a", "b"]', "the JSON has no objects"),
    ],
)
def test_file_without_rows_is_refused_by_its_kind_in_one_line(content, said):
    """Its name does not matter."""
    assert refusal(content).startswith(said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"encoding": "klingon"},
            "encoding must be one that Python knows, such as utf-8, cp1251, gbk or shift_jis",
        ),
        ({"encoding": "hex"}, "encoding must be one that Python knows"),
        ({"encoding": "unicode_escape"}, "encoding must be one that Python knows"),
        ({"encoding": "raw-unicode-escape"}, "encoding must be one that Python knows"),
        ({"encoding": "undefined"}, "encoding must be one that Python knows"),
        ({"delimiter": "ab"}, "delimiter must be one character, or comma, semicolon, tab, pipe or space, got 'ab'"),
        ({"quote": "''"}, "quote must be one character, or none if nothing is quoted, got"),
        ({"skip_rows": -1}, "skip_rows must be a number from 0 to 10,000, got -1"),
        ({"skip": 1}, "options have no field 'skip'; its fields: encoding, delimiter, quote, skip_rows"),
    ],
)
def test_invalid_option_is_refused(options, said):
    """The message names the field, the rule and the value."""
    assert refusal(b"text\na\n", **options).startswith(said)


def test_option_without_meaning_for_the_file_is_refused():
    """JSON has no delimiter, a workbook no encoding."""
    assert refusal(b'[{"text": "a"}]', delimiter=";") == "delimiter has no meaning here: the file is JSON"
    assert refusal(workbook([["text"], ["a"]]), encoding="gbk") == (
        "encoding has no meaning here: the file is an Excel workbook"
    )


def test_byte_order_mark_is_not_part_of_the_text():
    """Also for JSON, and in UTF-16."""
    for mark, encoding in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le")):
        assert contents(seen(mark + '[{"text": "é"}]'.encode(encoding))) == ["é"]
        assert contents(seen(mark + '{"text": "é"}\n{"text": "è"}\n'.encode(encoding))) == ["é", "è"]


def test_kind_is_detected_from_the_bytes_and_not_from_the_name():
    """The name decides only if the file is one object on one line."""
    assert seen(json_lines([{"text": "a"}, {"text": "b"}])).read_as["kind"] == "JSON Lines"
    assert seen(b'{"text": "a", "more": [{"x": 1}]}', name="f.JSONL.gz").read_as["kind"] == "JSON Lines"
    assert seen(b'{"more": [{"text": "a"}]}').read_as == {"kind": "JSON", "array": "more", "encoding": "utf-8"}
    assert seen(workbook([["text"], ["a"]])).read_as["kind"] == "an Excel workbook"
    assert seen(gzipped(workbook([["text"], ["a"]]))).read_as["packed"] == "gzip"
    assert seen(b"[text],[n]\na,1\n", mapping={"content": "[text]"}).read_as["kind"] == "CSV"
    assert seen(b"{text},n\na,1\n", mapping={"content": "{text}"}).read_as["kind"] == "CSV"
