"""Asking for structured answers, and finding them in what came back."""

import json
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from workers.judging.numbers import NoTruthValue
from workers.llm.structured import (
    InvalidAnswerError,
    Rung,
    declined,
    instructed,
    plain_schema_of,
    reask,
    response_format,
    schema_of,
    validated,
)
from workers.runtime.handler.ports import Message


class Part(BaseModel):
    title: str = Field(description="a property that has a keyword's name")
    score: Annotated[float, Field(ge=0, le=100), NoTruthValue]


class Whole(BaseModel):
    parts: list[Part]
    best: Part = Field(description="beside a reference")
    flags: list[str] = Field(default_factory=list)


DRAFT = json.dumps({"title": "draft", "score": 1})
GOOD = json.dumps({"title": "a", "score": 5})


def objects_in(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, list):
        return [found for item in schema for found in objects_in(item)]
    if not isinstance(schema, dict):
        return []
    inner = [found for value in schema.values() for found in objects_in(value)]
    return [schema, *inner] if schema.get("type") == "object" else inner


def test_schema_is_strict_at_every_level():
    """Strict readers demand every property required, no others allowed, and nothing beside a reference."""
    schema = schema_of(Whole)

    assert len(objects_in(schema)) == 2
    for node in objects_in(schema):
        assert node["required"] == list(node["properties"])
        assert node["additionalProperties"] is False
    assert schema["properties"]["best"] == {"$ref": "#/$defs/Part"}
    assert "title" in schema["$defs"]["Part"]["properties"]
    assert "default" not in json.dumps(schema)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"  \n{GOOD}\n",
        f"```json\n{GOOD}\n```",
        f"Sure!\n```\n{GOOD}\n```\nHope it helps {{really}}.",
        f'<think>maybe {{"title": "no", "score": 1}}</think>{GOOD}',
        f'so {{"title": "no", "score": 1}} or not </think>\n{GOOD}',
        f"The answer {{as asked}} is {GOOD}, and that is it.",
        f'{{"draft": true}} {GOOD}',
        json.dumps({"title": "a", "score": "5"}),
        f"<thinking>{DRAFT}</thinking>\n{GOOD}",
        f"<THINK>{DRAFT}</THINK>{GOOD}",
        f"<seed:think>{DRAFT}</seed:think>{GOOD}",
        f"[THINK]{DRAFT}[/THINK]{GOOD}",
        f"\u25c1think\u25b7{DRAFT}\u25c1/think\u25b7{GOOD}",
        f"<|begin_of_thought|>{DRAFT}<|end_of_thought|>{GOOD}",
        f'<reasoning effort="low">{DRAFT}</reasoning>{GOOD}',
        f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>{GOOD}",
        f"<|channel|>analysis<|message|>{DRAFT}<|end|><|channel|>final <|constrain|>json<|message|>{GOOD}<|return|>",
        f"analysisPerhaps {DRAFT}.assistantfinal{GOOD}",
        f"Draft: {DRAFT}\nFinal: {GOOD}",
        f"```json\n{DRAFT}\n```\nOn reflection:\n```json\n{GOOD}\n```",
        f'{GOOD}\nHere {{"score": 1}} would be too low.',
        f"{DRAFT}{{unfinished {GOOD}",
        f"\ufeff{GOOD}",
        f"{GOOD}<think>was that right? {DRAFT}</think>",
        'Draft: {"title": "a", "score": 1} <think>' + DRAFT + "</think> Final: " + GOOD,
    ],
)
def test_answer_is_found_in_its_wrapping(text):
    """Fences, reasoning and prose around a valid answer do not cost another call."""
    assert validated(text, Part) == Part(title="a", score=5)


ZERO = json.dumps({"title": "example", "score": 0})


@pytest.mark.parametrize(
    "text",
    [
        f"{GOOD}\nNote: example format {ZERO}",
        f"{GOOD}\n\nExample format:\n{ZERO}",
        f"{GOOD}\n\nExample:\n```json\n{ZERO}\n```",
        f"{GOOD}\n\nA bad candidate would have been {ZERO}.",
        f"{GOOD}\nThe least that one can get is {ZERO}.",
        f"```json\n{GOOD}\n```\nFor instance, {ZERO} would be too low.",
        f"```json\n{GOOD}\n```\nI considered {ZERO}, but it is too low.",
        f"My evaluation: {GOOD} (e.g. {ZERO} is for empty texts)",
        f"The format is {ZERO}. My answer is {GOOD}.",
        f"Format:\n```json\n{ZERO}\n```\nHere is the answer in this format:\n```json\n{GOOD}\n```",
        f"Example: {ZERO}\n\n{GOOD}",
        f"{ZERO}\n\nOn reflection, the final answer: {GOOD}",
        f"{ZERO}\nWait. Actually {GOOD} is fairer.",
        f"First I thought {ZERO}. Here is the result in the requested format: {GOOD}",
        f"Here is an example of a good answer: {GOOD}",
        f"In the requested format: {GOOD}",
        f"Zum Beispiel {ZERO}.\n{GOOD}",
        f"{GOOD} E.g. {ZERO}",
    ],
)
def test_an_example_of_an_answer_is_not_the_answer(text):
    """Wherever it stands; what is introduced as one and stands alone is taken all the same."""
    assert validated(text, Part) == Part(title="a", score=5)


def test_markup_inside_a_string_is_left_alone():
    """A whole JSON text is read as it is, whatever its strings quote."""
    text = json.dumps({"title": "uses </think> and ```code``` {braces}", "score": 5})

    assert validated(text, Part).title == "uses </think> and ```code``` {braces}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no JSON object"),
        ("quite good", "no JSON object"),
        ('<think>{"title": "draft", "score": 1}', "no JSON object"),
        ('{"title": "a"', "last JSON object is not complete"),
        ('{"titles": "a"', "no JSON object"),
        ('{"title": "a", "score": true}', "score: must be a number, got true"),
        (f'{GOOD} Final: {{"title": "a", "score": 101}}', "less than or equal to 100"),
        (f'{GOOD} Final: {{"title": "a", "sco', "last JSON object is not complete"),
        ('<|channel|>analysis<|message|>{"title": "draft", "score": 1}', "no JSON object"),
        (json.dumps({"title": "a", "score": 1}).replace("1", "9" * 5_000), "score: must be a valid number"),
        ('{"title": "a", "score": 5, "more": ' + "[" * 70 + "]" * 70 + "}", "nested deeper than 64"),
        ('{"title": "a", "score": 101}', "score: must be less than or equal to 100"),
        ('{"title": "a", "score": NaN}', "score: must be a valid number"),
        ("{" * 5_000, "no JSON object"),
    ],
)
def test_invalid_answer_says_what_is_wrong(text, said):
    """The message can be quoted to the model."""
    with pytest.raises(InvalidAnswerError, match=said):
        validated(text, Part)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I\u2019m really sorry, I cannot evaluate this person.", True),
        ("<think>hm {}</think>Sorry, I won't do this.", True),
        ("As an AI, I must decline.", True),
        ("I cannot fulfil this request.", True),
        ("Es tut mir leid, dabei kann ich nicht helfen.", True),
        ("I must respectfully decline.", True),
        ("I respectfully decline to answer.", True),
        ("We will not be able to help.", True),
        ("This request violates policy.", True),
        ("Your request goes against our usage guidelines.", True),
        ("It would violate the content policy.", True),
        ("I'm afraid I can't do that.", True),
        ("Je suis d\u00e9sol\u00e9, je ne peux pas.", True),
        ("Sorry for the delay. Score: 90", False),
        ("Sorry for the delay. It is quite good.", False),
        ("I'm afraid the score is 20.", False),
        ("I cannot give more than 40 points for this.", False),
        ("Unfortunately, I give it 3/10.", False),
        ("The text does not violate any policy.", False),
        ("I would say it is rather good.", False),
        (f"I'm sorry for the wait: {DRAFT}", False),
        ("I'm sorry. " + "word " * 500, False),
        ("", False),
    ],
)
def test_refusal_in_prose_is_told_from_an_answer_without_json(text, expected):
    """Who says that it will not answer did not forget the form."""
    assert (declined(text) is not None) is expected


def test_error_is_bounded_and_does_not_echo_the_input():
    """Many mistakes are quoted in part."""
    parts = [{"title": "secret words", "score": 999}] * 40

    with pytest.raises(InvalidAnswerError, match="and 36 more") as caught:
        validated(json.dumps({"parts": parts}), Whole)

    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_schema_is_told_where_it_is_not_sent():
    """JSON mode needs the word JSON in the messages; the first two rungs send the schema itself."""
    messages: list[Message] = [{"role": "system", "content": "Judge."}, {"role": "user", "content": "This."}]

    assert instructed(messages, Rung.SCHEMA, Part) == instructed(messages, Rung.PLAIN_SCHEMA, Part) == messages
    told = instructed(messages, Rung.JSON, Part)
    assert [message["role"] for message in told] == ["system", "user"]
    assert "JSON" in told[0]["content"]
    assert instructed(messages[1:], Rung.PROMPT, Part)[0]["role"] == "system"


def test_each_rung_has_its_format():
    """Schema, schema without bounds, JSON mode, nothing."""
    formats = [response_format(rung, Part) or {} for rung in Rung]

    assert [one.get("type") for one in formats] == ["json_schema", "json_schema", "json_object", None]
    bounded, plain = (one["json_schema"]["schema"]["properties"]["score"] for one in formats[:2])
    assert bounded == {"minimum": 0, "maximum": 100, "type": "number"}
    assert plain == {"type": "number"}


def test_schema_without_bounds_keeps_members_that_are_called_like_bounds():
    """What is left out are keywords. Members, enums and what is required stay."""

    class Named(BaseModel):
        pattern: Literal["a", "b"]
        format: Annotated[list[str], Field(max_length=3)]

    plain = plain_schema_of(Named)

    assert plain["properties"] == {
        "pattern": {"enum": ["a", "b"], "type": "string"},
        "format": {"items": {"type": "string"}, "type": "array"},
    }
    assert plain["required"] == ["pattern", "format"]
    assert schema_of(Named)["properties"]["format"]["maxItems"] == 3


def test_reask_alternates_turns_and_quotes_the_error():
    """Chat templates refuse two user turns in a row, and reasoning is not sent back."""
    question: list[Message] = [{"role": "user", "content": "Judge."}]

    again = reask(question, "<think>hm</think>bad", InvalidAnswerError("score: missing"), Part)

    assert [message["role"] for message in again] == ["user", "assistant", "user"]
    assert again[1]["content"] == "bad"
    assert "score: missing" in again[2]["content"]
    assert '"score"' in again[2]["content"]
