"""Every question has a limit for its answer, in the form that the server takes."""

from typing import Any

import pytest

from tests.support.fakes.openai_server import FakeOpenAI
from workers.judging.answers import answer_to
from workers.llm.abilities import MIN_SHARE, REASONING_TOKENS
from workers.llm.bounds import bound_of
from workers.llm.ports import RoutePosition, current_position
from workers.llm.provider import build
from workers.runtime.handler.errors import InvalidAnswers, Refused
from workers.scoring.question import build_question
from workers.scoring.score import ScoreAnswer

QUESTION = build_question("Judge.\n\nCriteria:\n- use: solves a problem", name="a", attributes={"b": "c " * 500})
INTO = answer_to((one.name for one in QUESTION.criteria), form=ScoreAnswer)
BOUND = bound_of(INTO)
CUT = {"kind": "truncated"}


@pytest.fixture(scope="module")
def server():
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture
def fake(server):
    server.reset()
    return server


@pytest.fixture
async def provider(fake):
    made = build(api_key="sk-test", base_url=fake.url, model=None, connect_timeout=2.0, timeout=20.0, max_connections=4)
    yield made
    await made.aclose()


def refuses(message: str) -> dict[str, Any]:
    return {"kind": "status", "status": 400, "message": message}


async def parse(provider, **options):
    return await provider.parse(QUESTION.messages, into=INTO, model="m", **options)


async def test_limit_follows_from_the_form_unless_it_is_told(provider, fake):
    """A server that is told none writes until its client gives up."""
    await parse(provider)
    await parse(provider, max_tokens=77)

    assert [request["max_tokens"] for request in fake.requests] == [BOUND, 77]


async def test_answer_that_was_cut_off_gets_one_larger_try(provider, fake):
    """The same question, not one that quotes an error; the tokens of both count."""
    fake.script(queue=[CUT])

    answer = await parse(provider)

    assert [request["max_tokens"] for request in fake.requests] == [BOUND, 2 * BOUND]
    assert [len(request["messages"]) for request in fake.requests] == [2, 2]
    assert (answer.prompt_tokens, answer.completion_tokens) == (200, 40)


async def test_answer_that_is_cut_off_again_fails_with_the_bound(provider, fake):
    """No third call in this run."""
    fake.script(default=CUT)

    with pytest.raises(
        InvalidAnswers, match=f"cut off at {2 * BOUND:,} tokens; a valid answer needs at most {BOUND:,}"
    ):
        await parse(provider)

    assert fake.calls == 2


async def test_server_that_refuses_bounds_in_a_schema_is_sent_one_without(provider, fake):
    """Still a schema that it enforces; remembered, so that one call is refused and not one per job."""
    fake.script(queue=[refuses("Invalid schema for response_format 'RubricAnswer': 'maxLength' is not permitted.")])

    await parse(provider)
    await parse(provider)

    schemas = [str(request["response_format"]["json_schema"]["schema"]) for request in fake.requests]
    assert ["maxLength" in schema for schema in schemas] == [True, False, False]
    assert all(request["max_tokens"] == BOUND for request in fake.requests)


async def test_server_that_insists_on_max_completion_tokens_gets_it(provider, fake):
    """Remembered; its models reason before they answer, so there is room for that."""
    fake.script(queue=[refuses("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")])

    await parse(provider)
    await parse(provider)

    limits = [(request.get("max_tokens"), request.get("max_completion_tokens")) for request in fake.requests]
    assert limits == [(BOUND, None), (None, BOUND + REASONING_TOKENS), (None, BOUND + REASONING_TOKENS)]


async def test_model_that_is_seen_to_reason_gets_room_for_it(provider, fake):
    """Its reasoning counts as part of the answer at every server; the first answer that is cut off tells."""
    message = {"role": "assistant", "content": "", "reasoning_content": "Let me see."}
    fake.script(queue=[{"kind": "choice", "choice": {"message": message, "finish_reason": "length"}}])

    await parse(provider)
    await parse(provider)

    limits = [request["max_tokens"] for request in fake.requests]
    assert limits == [BOUND, 2 * (BOUND + REASONING_TOKENS), BOUND + REASONING_TOKENS]


async def test_answer_stays_within_the_context_that_the_server_tells(provider, fake):
    """A refusal that counts the question's tokens is no job's error while there is room for an answer."""
    fake.script(
        queue=[
            refuses(
                "This model's maximum context length is 1000 tokens. However, you requested 1500 tokens (700 in the "
                "messages, 800 in the completion)."
            )
        ]
    )

    await parse(provider, max_tokens=800)

    assert [request["max_tokens"] for request in fake.requests] == [800, 300]


async def test_question_that_fills_the_context_is_refused_at_once(provider, fake):
    """No limit of the answer helps."""
    fake.script(default=refuses("This model's maximum context length is 1000 tokens, your prompt has 990 tokens."))

    with pytest.raises(Refused, match="input exceeds the model's context"):
        await parse(provider)

    assert fake.calls == 1


async def test_answer_stays_within_the_context_that_a_list_or_a_route_tells(provider, fake):
    """The smaller one counts. The larger try goes by the question's own tokens, of which the server counts 100."""
    fake.script(models=["m"], contexts={"m": 900})
    await provider.resolve("m")

    await parse(provider)
    fake.script(default=CUT)
    current_position.set(RoutePosition(route="r", context_tokens=200))
    with pytest.raises(InvalidAnswers, match="cut off at 100 tokens"):
        await parse(provider)

    of_list, *of_route = [request["max_tokens"] for request in fake.requests]
    assert of_list < BOUND
    assert of_route == [200 // MIN_SHARE, 100]
