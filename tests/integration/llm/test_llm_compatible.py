"""The provider against a real HTTP server that answers and misbehaves as compatible servers do."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest

from tests.support.fakes.openai_server import FakeOpenAI
from workers.judging.answers import answer_to
from workers.llm.provider import build
from workers.runtime.handler.context import Run, current_run
from workers.runtime.handler.errors import InvalidAnswers, Permanent, RateLimited, Retryable, Unavailable
from workers.scoring.question import build_question
from workers.scoring.score import ScoreAnswer

KEY = "sk-test-0123456789"
QUESTION = build_question(
    "Judge.\n\nCriteria:\n- use (60): solves a problem\n- clarity (40): plain words", name="a", attributes={}
)
INTO = answer_to((one.name for one in QUESTION.criteria), form=ScoreAnswer)


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
    made = provider_of(fake.url)
    yield made
    await made.aclose()


def provider_of(url, *, model=None, timeout=5.0, max_connections=16, concurrency=1_000):
    return build(
        api_key=KEY,
        base_url=url,
        model=model,
        connect_timeout=2.0,
        timeout=timeout,
        max_connections=max_connections,
        concurrency=concurrency,
    )


async def parse(provider, **changes):
    return await provider.parse(QUESTION.messages, **{"into": INTO, "model": "m-1"} | changes)


async def test_answer_keeps_evidence_of_the_call(provider, fake):
    """Validated value, raw body, the served model's own name, tokens and duration."""
    fake.script(reported_model="m-1-20261101")

    answer = await parse(provider, parameters={"seed": 7})

    assert [one.name for one in answer.value.criteria] == ["use", "clarity"]
    assert answer.model == answer.raw["model"] == "m-1-20261101"
    assert (answer.prompt_tokens, answer.completion_tokens) == (100, 20)
    assert 0 < answer.seconds < 5
    (request,) = fake.requests
    assert request["seed"] == 7
    assert request["response_format"]["json_schema"]["strict"] is True
    assert fake.snapshot()["requests"][0]["authorized"]


def become_run_of(job_id, *, attempt):
    """Make the test's own task a run, as the runner makes each task that it starts."""
    current_run.set(Run("scoring.score", job_id, version=2 * attempt, attempt=attempt))


async def test_question_carries_its_job_as_idempotency_key_on_every_attempt(provider, fake):
    """Attempts of one job that ask the same share a key; a re-ask and another job's question have their own."""
    mine, other = uuid4(), uuid4()
    fake.script(queue=[{"kind": "malformed"}])

    become_run_of(mine, attempt=1)
    await parse(provider)
    become_run_of(mine, attempt=2)
    await parse(provider)
    become_run_of(other, attempt=1)
    await parse(provider)

    asked, asked_again, second_attempt, others = [call.key for call in fake.ledger]
    assert asked == second_attempt
    assert len({asked, asked_again, others}) == 3
    assert [call.job_id for call in fake.ledger] == [mine, mine, mine, other]
    assert len(asked) == 36 + 1 + 16


async def test_question_outside_of_a_run_carries_no_key(provider, fake):
    """Whoever asks without a job, as a diagnosis does, claims none."""
    await parse(provider)

    assert (fake.calls, fake.ledger) == (1, [])


@pytest.mark.parametrize("kind", ["fenced", "think", "parts", "no_usage"])
async def test_wrapped_answer_costs_no_second_call(provider, fake, kind):
    """What can be read is read."""
    fake.script(default={"kind": kind})

    assert len((await parse(provider)).value.criteria) == 2
    assert fake.calls == 1


@pytest.mark.parametrize("kind", ["malformed", "prose", "invalid", "truncated", "empty"])
async def test_invalid_answer_is_asked_for_once_more_with_the_error(provider, fake, kind):
    """The second question quotes what was wrong; the tokens of both calls count."""
    fake.script(queue=[{"kind": kind}])

    answer = await parse(provider)

    assert fake.calls == 2
    assert (answer.prompt_tokens, answer.completion_tokens) == (200, 40)
    second = fake.requests[1]["messages"]
    assert [message["role"] for message in second] == ["system", "user", "assistant", "user"]
    assert "That answer is invalid" in second[-1]["content"]


async def test_missing_criterion_is_quoted_to_the_model(provider, fake):
    """The re-ask names what is missing."""
    with pytest.raises(Retryable, match="missing: 'third'"):
        await parse(provider, into=answer_to([*(one.name for one in QUESTION.criteria), "third"], form=ScoreAnswer))

    assert "missing: 'third'" in fake.requests[1]["messages"][-1]["content"]


async def test_two_invalid_answers_are_retryable_and_no_third_is_asked(provider, fake):
    """A model's output is random, so another attempt may go well; but not in this run."""
    fake.script(default={"kind": "malformed"})

    with pytest.raises(InvalidAnswers, match="two invalid answers"):
        await parse(provider)

    assert fake.calls == 2


@pytest.mark.parametrize(
    ("formats", "asked"),
    [
        (["json_object", "text"], ["json_schema", "json_object", "json_object"]),
        (["text"], ["json_schema", "json_object", "text", "text"]),
    ],
)
async def test_refused_format_moves_down_and_is_remembered(provider, fake, formats, asked):
    """The ladder is climbed down once per model, not once per job."""
    fake.script(formats=formats)

    await parse(provider)
    await parse(provider)

    assert [request.get("response_format", {}).get("type", "text") for request in fake.requests] == asked
    assert "JSON Schema" in fake.requests[-1]["messages"][0]["content"]


async def test_concurrent_first_calls_do_not_overshoot_the_ladder(provider, fake):
    """Ten jobs that learn at once that schemas are refused end one rung down, not two."""
    fake.script(formats=["json_object", "text"])

    await asyncio.gather(*(parse(provider) for _ in range(10)))

    assert {request["response_format"]["type"] for request in fake.requests[-10:]} == {"json_object"}


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        ({"kind": "status", "status": 500}, Unavailable),
        ({"kind": "status", "status": 503, "retry_after": "1"}, Unavailable),
        ({"kind": "status", "status": 400, "message": "bad"}, Permanent),
        ({"kind": "status", "status": 401, "message": f"wrong key {KEY}"}, Unavailable),
        ({"kind": "status", "status": 404}, Permanent),
        ({"kind": "status", "status": 501}, Permanent),
        ({"kind": "status", "status": 500, "message": "exceeds the available context size"}, Permanent),
        ({"kind": "refusal"}, Permanent),
        ({"kind": "filtered"}, Permanent),
        ({"kind": "no_choices"}, Retryable),
        ({"kind": "error_200"}, Retryable),
        ({"kind": "html"}, Unavailable),
        ({"kind": "disconnect"}, Unavailable),
        ({"kind": "choice", "choice": {"finish_reason": "error", "error": {"code": 429}}}, RateLimited),
    ],
)
async def test_failure_is_classified_and_asked_once(provider, fake, behaviour, expected):
    """One call, one class of error, one short line without the key."""
    fake.script(default=behaviour)

    with pytest.raises(expected) as caught:
        await parse(provider)

    assert fake.calls == 1
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_rate_limit_carries_the_servers_delay(provider, fake):
    """The client does not wait and retry by itself."""
    fake.script(default={"kind": "status", "status": 429, "retry_after": "4"})

    with pytest.raises(RateLimited) as caught:
        await parse(provider)

    assert caught.value.delay == timedelta(seconds=4)
    assert fake.calls == 1


@pytest.mark.parametrize("kind", ["hang", "drip"])
async def test_no_answer_in_time_is_retryable(fake, kind):
    """The bound is on the whole answer: a server that sends a byte now and then does not hold a job."""
    fake.script(default={"kind": kind})
    provider = provider_of(fake.url, timeout=0.4)

    async with asyncio.timeout(3):
        with pytest.raises(Retryable, match="in time"):
            await parse(provider)

    await provider.aclose()


async def test_unreachable_server_is_retryable():
    """Nobody listens on that port; the offline evaluator does not step in."""
    provider = provider_of("http://127.0.0.1:9/v1")

    with pytest.raises(Retryable, match="unreachable"):
        await parse(provider)

    await provider.aclose()


async def test_cancelled_call_ends_at_once(provider, fake):
    """A cancelled job's connection is given up, not waited for."""
    fake.script(default={"kind": "hang"})
    call = asyncio.create_task(parse(provider))
    await until(lambda: fake.snapshot()["in_flight"] == 1)

    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: fake.snapshot()["in_flight"] == 0)


async def test_listed_model_resolves_to_server_and_name(provider, fake):
    """The identity names who answers; the list is asked for once, however many ask at the same time."""
    fake.script(models=["m-1", "m-2"])

    identities = await asyncio.gather(*(provider.resolve("m-2") for _ in range(20)))

    assert set(identities) == {f"{fake.url}|m-2"}
    assert fake.snapshot()["listings"] == 1


async def test_unlisted_model_fails_before_it_costs_a_call(provider, fake):
    """The error names the model and what is served."""
    fake.script(models=["m-1"])

    with pytest.raises(Permanent, match=r"'gpt-3.5-turbo' is not served by .*; it serves m-1;"):
        await provider.resolve("gpt-3.5-turbo")

    assert fake.calls == 0


async def test_server_without_a_list_serves_any_name(provider, fake):
    """A 404 for the list says nothing about the model."""
    assert await provider.resolve("anything") == f"{fake.url}|anything"


async def test_unreachable_list_is_the_jobs_error_and_asked_again():
    """A server that is down is no server without a list, and every waiting job is told."""
    provider = provider_of("http://127.0.0.1:9/v1")

    results = await asyncio.gather(*(provider.resolve("m") for _ in range(3)), return_exceptions=True)

    assert [type(result) for result in results] == [Unavailable] * 3
    with pytest.raises(Retryable):
        await provider.resolve("m")
    await provider.aclose()


async def test_configured_model_stands_in_for_the_tables_default_only(fake):
    """A job that names no model gets the configured one, in its key and in the call; any other name is kept."""
    provider = provider_of(fake.url, model="house-model")

    assert await provider.resolve("gpt-3.5-turbo") == f"{fake.url}|house-model"
    assert await provider.resolve("m-1") == f"{fake.url}|m-1"
    await parse(provider, model="gpt-3.5-turbo")
    assert fake.requests[0]["model"] == "house-model"

    await provider.aclose()


async def test_many_calls_at_once_share_few_connections(fake):
    """Two hundred calls never hold more connections than allowed, and all are answered."""
    fake.script(default={"kind": "answer", "delay_ms": 20})
    provider = provider_of(fake.url, max_connections=20)

    answers = await asyncio.gather(*(parse(provider) for _ in range(200)))

    assert len(answers) == 200
    assert fake.snapshot()["max_in_flight"] <= 20
    assert fake.snapshot()["connections"] <= 20
    await provider.aclose()


async def test_slow_provider_is_asked_no_more_at_once_than_allowed_and_waiting_costs_no_time(fake):
    """Thirty questions, three at once: the last waits for longer than one may take, and none is late."""
    fake.script(default={"kind": "answer", "delay_ms": 250})
    provider = provider_of(fake.url, timeout=1.5, concurrency=3)

    answers = await asyncio.gather(*(parse(provider) for _ in range(30)))

    assert len(answers) == 30
    assert fake.snapshot()["max_in_flight"] == 3
    await provider.aclose()


async def until(condition):
    """Poll a condition for two seconds."""
    async with asyncio.timeout(2):
        while not condition():  # noqa: ASYNC110 - the server keeps its counters on a thread of its own
            await asyncio.sleep(0.01)
