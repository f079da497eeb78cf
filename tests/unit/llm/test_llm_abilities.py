"""What a server refuses tells how else it may be asked, and is remembered."""

import httpx2
import openai
import pytest

from workers.llm.abilities import REASONING_TOKENS, Abilities, Sent
from workers.llm.structured import Rung


def refusal(message: str, *, status: int = 400, **error: str) -> openai.APIStatusError:
    response = httpx2.Response(status, request=httpx2.Request("POST", "http://a.test"))
    body = {"message": message, **error}
    return openai.APIStatusError(message, response=response, body=body)


def sent(limit: int = 2_000, *, rung: Rung = Rung.SCHEMA, name: str = "max_tokens", used: int = 500) -> Sent:
    return Sent(rung, name, limit, used)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error",
    [
        refusal(
            "Unsupported parameter: 'max_tokens' is not supported here. Use 'max_completion_tokens' instead.",
            param="max_tokens",
            code="unsupported_parameter",
        ),
        refusal("this model needs other names", param="max_tokens", code="unsupported_parameter"),
        refusal("please use max_completion_tokens"),
    ],
)
def test_server_that_insists_on_the_other_name_gets_it_and_room_for_reasoning(error: openai.APIStatusError) -> None:
    """Only servers of models that reason insist; once the name is changed, it is not changed back."""
    abilities = Abilities()

    assert abilities.adapt(error, sent())
    assert abilities.limit_name == "max_completion_tokens"
    assert abilities.limit(1_000, input_tokens=10) == 1_000 + REASONING_TOKENS
    assert not abilities.adapt(error, sent(name="max_completion_tokens"))


VLLM = (
    "This model's maximum context length is 4096 tokens. However, you requested 5100 tokens (2100 in the messages, "
    "3000 in the completion). Please reduce the length of the messages or completion."
)
NEW_VLLM = (
    "'max_tokens' or 'max_completion_tokens' is too large: 3000. This model's maximum context length is 4096 tokens "
    "and your request has 2100 input tokens (3000 > 4096 - 2100)."
)
OPENROUTER = (
    "This endpoint's maximum context length is 4096 tokens. However, you requested about 5100 tokens (2100 of text "
    "input, 3000 in the output)."
)


@pytest.mark.parametrize("message", [VLLM, NEW_VLLM, OPENROUTER], ids=["vllm", "new vllm", "openrouter"])
def test_answer_gets_what_the_context_leaves(message: str) -> None:
    """By the server's own count of the question, not by our estimate."""
    context, used = 4_096, 2_100
    abilities, form = Abilities(), sent(3_000, used=9_000)

    assert abilities.adapt(refusal(message), form)

    assert (abilities.context, form.input_tokens) == (context, used)
    assert abilities.limit(3_000, input_tokens=form.input_tokens) == context - used
    assert not abilities.adapt(refusal(message), sent(context - used))


@pytest.mark.parametrize(
    "message",
    [
        "the request exceeds the available context size, try increasing it",
        "This model's maximum context length is 4096 tokens. However, your messages resulted in 9000 tokens.",
        "maximum context length is 4096 tokens, you requested 6900 tokens (3900 in the messages, 3000 in the answer)",
    ],
)
def test_question_that_fills_the_context_is_not_sent_again(message: str) -> None:
    """No limit of the answer helps then."""
    assert not Abilities().adapt(refusal(message), sent(3_000))


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 20000. This model supports at most 1500 completion tokens, you provided 20000.",
        "max_tokens must be less than or equal to 1500",
        "max_tokens: 20000 > 1500, which is the maximum allowed number of output tokens",
    ],
)
def test_limit_that_is_too_large_is_lowered_to_what_the_server_says(message: str) -> None:
    """Once; a server that refuses its own number is not asked for ever."""
    abilities = Abilities()

    assert abilities.adapt(refusal(message), sent(20_000))
    assert abilities.limit(20_000, input_tokens=10) == 1_500
    assert not abilities.adapt(refusal(message), sent(1_500))


def test_refused_forms_are_left_one_after_the_other() -> None:
    """Calls that ran at the same time do not skip one."""
    abilities = Abilities()
    bounds = refusal(
        "Invalid schema for response_format 'A': In context=('properties', 'a'), 'maxLength' is not permitted."
    )

    assert abilities.adapt(bounds, sent())
    assert abilities.adapt(bounds, sent())
    assert abilities.rung is Rung.PLAIN_SCHEMA
    assert abilities.adapt(refusal("json_schema is not supported"), sent(rung=Rung.PLAIN_SCHEMA))
    assert abilities.adapt(refusal("json_object is not supported", status=422), sent(rung=Rung.JSON))
    assert not abilities.adapt(refusal("json_object is not supported"), sent(rung=Rung.PROMPT))


@pytest.mark.parametrize(
    "error",
    [
        refusal("model not found", status=404),
        refusal("rate limit: at most 20 requests per minute", status=429),
        refusal("bad request"),
        refusal("your request holds up to 3 images"),
    ],
)
def test_refusal_for_another_reason_changes_nothing(error: openai.APIStatusError) -> None:
    """It is the job's error."""
    abilities = Abilities()

    assert not abilities.adapt(error, sent())
    assert abilities == Abilities()


def test_limit_stays_within_the_smaller_context_and_never_at_nothing() -> None:
    """The estimate of the input is high, so a share of the context is left whatever it says."""
    abilities = Abilities(context=8_000)

    assert abilities.limit(1_000, input_tokens=500) == 1_000
    assert abilities.limit(1_000, input_tokens=500, times=2) == 2_000
    assert abilities.limit(1_000, input_tokens=1_500, context=2_000) == 500
    assert abilities.limit(1_000, input_tokens=9_000, context=2_000) == 250
    assert abilities.limit(1_000, input_tokens=7_900) == 1_000
