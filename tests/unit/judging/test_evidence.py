"""A model's quotes are looked up in the subject: it may quote what is not there."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.judging.evidence import SubjectText
from workers.judging.rubric_rule import evaluate

CONTENT: dict[str, Any] = {
    "summary": "Parse and validate TOML files, for people who\nwrite “command line” tools.",
    "description": "It is fast. It costs nothing; it works on Python 3.11.",
    "project_urls": {"Documentation": "https://tomlish.test/docs"},
    "packages": [{"registry_name": "npm", "version": "1.0.2"}, {"registry_name": "pypi", "tags": ["a", "fast"]}],
    "stars": 1200,
    "archived": False,
    "readme": "日本語の説明書です。",
}
SUBJECT = SubjectText("tomlish", CONTENT)


@pytest.mark.parametrize(
    "quote",
    [
        "Parse and validate TOML files",
        "for people who write command line tools",
        'FOR PEOPLE WHO  WRITE "COMMAND LINE" TOOLS!',
        "Parse and validate TOML fi",
        "It is fast … it works on Python 3.11",
        "It is fast [...] it costs nothing",
        'summary: "Parse and validate TOML files"',
        "project_urls.Documentation: https://tomlish.test/docs",
        '"stars": 1200',
        "archived: false",
        "summary",
        "project_urls.Documentation",
        "packages[0].registry_name",
        "packages[].version",
        'packages[0].registry_name: "npm"',
        "a, fast",
        "説明書",
        "tomlish",
        "name",
    ],
)
def test_quote_that_is_there_is_found(quote: str) -> None:
    """However it is quoted: case, blanks, quotes and punctuation do not matter, and a field's name may stand before."""
    assert SUBJECT.has(quote)


@pytest.mark.parametrize(
    "quote",
    [
        "It is the fastest",
        "10,000 stars",
        "summary: it is the fastest",
        "It is fast … and it is secure",
        "secrets",
        "a long description, usage examples, a link to the documentation",
        "validate and parse TOML files",
        "archived: true",
    ],
)
def test_quote_that_is_not_there_is_not_found(quote: str) -> None:
    """Words in another order, numbers that differ, and what the rubric says."""
    assert not SUBJECT.has(quote)


def test_quotes_are_divided_and_empty_ones_left_out() -> None:
    """The order stays."""
    checked = SUBJECT.check(["stars", " ", "invented", "fast", "…", "made up"])

    assert checked == (["stars", "fast"], ["invented", "made up"])


def test_plain_text_is_looked_up_too() -> None:
    """A subject may be one text."""
    assert SubjectText("note", "The kettle leaks at the lid.").check(["leaks at the lid", "explodes"]) == (
        ["leaks at the lid"],
        ["explodes"],
    )


def test_deep_subject_is_read_within_bounds() -> None:
    """What is nested deeper than any text of a person is not searched; nothing breaks."""
    deep: Any = "bottom"
    for _ in range(900):
        deep = [{"a": deep}]

    assert not SubjectText("x", deep).has("bottom")


TEXTS = st.text(st.characters(codec="utf-8"), max_size=60)
VALUES = st.recursive(
    TEXTS | st.integers() | st.booleans() | st.none(), lambda one: st.lists(one, max_size=3), max_leaves=6
)


@given(st.dictionaries(TEXTS, VALUES, max_size=4), TEXTS)
def test_every_value_and_every_name_of_a_subject_is_found(content: dict[str, Any], quote: str) -> None:
    """As it stands; any text may be asked for."""
    subject = SubjectText("x", content)

    subject.has(quote)
    names = [name for name in content if any(map(str.isalnum, name))]
    values = [value for value in content.values() if isinstance(value, str) and any(map(str.isalnum, value))]
    assert subject.check([*names, *values]).unverified == []


def test_the_rule_quotes_only_what_is_there() -> None:
    """So its quotes need not be looked up."""
    criteria = [{"name": "use", "description": "says what it parses and how fast it works, with documentation"}]
    (one,) = evaluate(criteria, {"attributes": CONTENT})["criteria"]

    assert one["evidence"]
    assert SUBJECT.check(one["evidence"]).unverified == []
