"""Reading completions as compatible servers really send them."""

import json

import pytest

from workers.llm.bodies import text_of
from workers.llm.wire import read, storable
from workers.runtime.handler.errors import InvalidAnswers, Permanent, RateLimited, Refused, Retryable, Unavailable


def body(**changes):
    message = {"role": "assistant", "content": "{}"} | changes.pop("message", {})
    choice = {"finish_reason": "stop", "message": message} | changes.pop("choice", {})
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    return json.dumps({"model": "served-1", "choices": [choice], "usage": usage} | changes)


def test_completion_keeps_the_body_and_the_served_model():
    """The response's own model name counts, not the one asked for."""
    completion = read(body())

    assert completion.model == "served-1"
    assert (completion.prompt_tokens, completion.completion_tokens) == (3, 4)
    assert completion.raw["choices"][0]["message"]["content"] == "{}"


def test_missing_usage_and_model_are_unknown_not_errors():
    """Servers that report nothing still answer."""
    completion = read(body(usage=None, model=None))

    assert (completion.model, completion.prompt_tokens, completion.completion_tokens) == (None, None, None)


def test_content_in_parts_is_joined():
    """Some servers send the text as a list of parts."""
    assert read(body(message={"content": [{"text": "{"}, {"type": "image"}, {"text": "}"}]})).text == "{}"


@pytest.mark.parametrize("text", ["<html>Sign in</html>", "", "[]", '"hello"', "{"])
def test_body_that_is_no_object_is_an_outage_and_points_to_the_url(text):
    """A proxy's page or a wrong path is told as such."""
    with pytest.raises(Unavailable, match="OPENAI_BASE_URL"):
        read(text)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' + "[" * 70 + "]" * 70 + "}"])
def test_body_nested_too_deeply_is_an_invalid_answer(text):
    """Nobody who reads it later needs a deep stack."""
    with pytest.raises(InvalidAnswers, match="nested deeper than 64"):
        read(text)


def test_numbers_of_thousands_of_digits_are_left_out():
    """Python refuses to read them, and so would whoever reads the row."""
    completion = read(body(usage={"prompt_tokens": 1}).replace('"prompt_tokens": 1', f'"prompt_tokens": {"9" * 5_000}'))

    assert completion.raw["usage"]["prompt_tokens"] is None
    assert completion.prompt_tokens is None


@pytest.mark.parametrize("count", [True, -1, float("inf"), 2**40, "7", None])
def test_count_that_is_none_is_unknown(count):
    """No overflow, no truth value as a number of tokens."""
    assert read(body(usage={"prompt_tokens": count})).prompt_tokens is None


def test_reasoning_is_no_part_of_the_text():
    """Whether in a field of its own or among the content's parts."""
    parts = [{"type": "thinking", "text": "{1}"}, {"type": "reasoning", "text": "{2}"}, {"type": "text", "text": "{}"}]

    assert read(body(message={"content": parts})).text == "{}"
    assert read(body(message={"reasoning_content": "{1}", "reasoning": "{2}"})).text == "{}"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"code": 429, "message": "upstream"}, RateLimited),
        ({"code": "rate_limit_exceeded"}, RateLimited),
        ({"type": "overloaded_error"}, Unavailable),
        ({"code": 503.0}, Unavailable),
        ({"code": 402}, Unavailable),
        ({"code": 400, "message": "bad"}, Permanent),
        ({"code": True}, Unavailable),
        ({"code": "9" * 5_000}, Unavailable),
        ("broke", Unavailable),
    ],
)
def test_error_inside_a_choice_is_judged_by_its_code(error, expected):
    """OpenRouter passes the upstream's failure on within the choice."""
    with pytest.raises(expected):
        read(body(choice={"error": error, "finish_reason": "error"}, message={"content": ""}))


def test_name_of_a_model_is_bounded():
    """It is kept beside every answer."""
    assert len(read(body(model="m" * 10_000)).model or "") == 255


@pytest.mark.parametrize("choices", [None, [], ["text"], [{"finish_reason": "stop"}]])
def test_answer_without_a_choice_says_that_the_provider_is_away(choices):
    """Whatever was asked: the job waits, and spends no attempt."""
    with pytest.raises(Unavailable, match="without a choice"):
        read(body(choices=choices))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"code": 429, "message": "slow"}, RateLimited),
        ({"code": "insufficient_quota", "message": "pay"}, Unavailable),
        ({"code": 400, "message": "bad"}, Permanent),
        ({"code": 502, "message": "upstream"}, Retryable),
        ("something broke", Retryable),
    ],
)
def test_error_sent_with_success_is_judged_by_its_code(error, expected):
    """HTTP 200 with an error inside is the error."""
    with pytest.raises(expected):
        read(json.dumps({"error": error}))


@pytest.mark.parametrize(
    "changes", [{"message": {"content": None, "refusal": "No."}}, {"choice": {"finish_reason": "content_filter"}}]
)
def test_refusal_is_permanent(changes):
    """Content that was refused is refused again."""
    with pytest.raises(Refused, match="refused the content"):
        read(body(**changes))


def test_what_postgres_cannot_keep_is_replaced():
    """NUL, lone surrogates and infinities would make the settle fail for ever."""
    value = storable(json.loads('{"a\\u0000": ["x\\ud800y", 1e400, -1e400, NaN, 1.5, true, null]}'))

    assert value == {"a\ufffd": ["x\ufffdy", None, None, None, 1.5, True, None]}


@pytest.mark.parametrize(
    "charset",
    ["undefined", "idna", "punycode", "hex", "rot13", "utf-7", "no-such", "\x00", "utf_8_sig", "unicode_escape"],
)
def test_body_is_read_whatever_charset_it_names(charset):
    """Names of encodings that raise of their own, or that are none of texts, included."""
    text = text_of(b'{"error": "\xff \\ud800 \\"}', f"application/json; charset={charset}")

    assert "error" in text
