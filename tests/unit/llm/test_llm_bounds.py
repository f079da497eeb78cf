"""The longest valid answer of a form is known before it is asked for."""

import json
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model

from workers.analytics.alignment import AlignmentAnswer
from workers.analytics.summary import SummaryAnswer
from workers.judging.answers import answer_to
from workers.judging.judgement import SubjectAnswer
from workers.llm.bounds import CHARACTERS_PER_TOKEN, MAX_TOKENS_IF_UNBOUNDED, MIN_TOKENS, bound_of
from workers.llm.structured import schema_of
from workers.runtime.handler.tokens import tokens_of
from workers.scoring.score import ScoreAnswer

NAMES = ["documentation", "clarity", "maintenance", "openness"]


class Tree(BaseModel):
    name: Annotated[str, Field(max_length=10)]
    children: Annotated[list["Tree"], Field(max_length=2)]


def form_of(*, texts: int, length: int, items: int) -> type[BaseModel]:
    text = Annotated[str, Field(max_length=length)]
    fields: dict[str, Any] = {f"text_{place}": (text, ...) for place in range(texts)}
    return create_model("Form", **fields, listed=(Annotated[list[text], Field(max_length=items)], ...))


def longest(schema: Any, definitions: Any) -> Any:
    """Return the longest value that a schema of texts, lists and whole numbers allows."""
    if "$ref" in schema:
        return longest(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "enum" in schema:
        return max(schema["enum"], key=len)
    match schema["type"]:
        case "object":
            return {name: longest(one, definitions) for name, one in schema["properties"].items()}
        case "array":
            return [longest(schema["items"], definitions)] * schema["maxItems"]
        case "integer":
            return schema["maximum"]
    words = "Everything that it claims is backed by facts and by links to the documentation. " * 40
    return words[: schema["maxLength"]]


@pytest.mark.parametrize(
    "form",
    [
        answer_to(NAMES, form=ScoreAnswer),
        answer_to([f"criterion {number}" for number in range(20)], form=SubjectAnswer),
        AlignmentAnswer,
        SummaryAnswer,
    ],
    ids=["profile", "subject", "record", "report"],
)
def test_the_longest_answer_of_our_forms_fits_however_it_is_indented(form: type[BaseModel]) -> None:
    """Each text and each list of a form is bounded, and the bound has room for all of them at once."""
    schema = schema_of(form)
    value = longest(schema, schema.get("$defs"))

    assert tokens_of(json.dumps(value)) < bound_of(form)
    assert tokens_of(json.dumps(value, indent=2)) < bound_of(form)
    assert bound_of(form) < 3 * tokens_of(json.dumps(value))


@given(st.integers(0, 5), st.integers(1, 500), st.integers(0, 9))
def test_more_to_say_never_lowers_the_bound(texts: int, length: int, items: int) -> None:
    """The bound grows with every text, its length and the items of lists."""
    bound = bound_of(form_of(texts=texts, length=length, items=items))

    assert bound >= MIN_TOKENS
    assert bound >= (texts + items) * length / CHARACTERS_PER_TOKEN
    assert bound <= bound_of(form_of(texts=texts + 1, length=length, items=items))
    assert bound <= bound_of(form_of(texts=texts, length=length + 20, items=items))
    assert bound <= bound_of(form_of(texts=texts, length=length, items=items + 1))


def test_what_is_not_bounded_gets_a_default() -> None:
    """Forms of other authors need not bound anything."""

    class Free(BaseModel):
        text: str
        parts: list[dict[str, str]]

    many: dict[str, Any] = {f"text_{place}": (str, ...) for place in range(50)}

    assert 1_000 < bound_of(Free) <= MAX_TOKENS_IF_UNBOUNDED
    assert bound_of(Tree) <= MAX_TOKENS_IF_UNBOUNDED
    assert bound_of(create_model("Many", **many)) == MAX_TOKENS_IF_UNBOUNDED


def test_choices_numbers_and_formats_count_as_their_longest_value() -> None:
    """Enums, bounded numbers, booleans, ids and what may be missing."""

    class Small(BaseModel):
        verdict: Literal["aligned", "not_aligned"]
        points: Annotated[int, Field(ge=0, le=100)]
        sure: bool
        id: UUID
        note: Annotated[str, Field(max_length=400)] | None

    assert 200 < bound_of(Small) < 350
