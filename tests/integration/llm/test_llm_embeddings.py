"""Embeddings of the provider over real HTTP: what is sent, and what each failure means for a job."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest

from tests.support.fakes.embedder import vector_of
from tests.support.fakes.openai_server import FakeOpenAI
from workers.llm.provider import build
from workers.runtime.handler.context import Run, current_run
from workers.runtime.handler.errors import Permanent, RateLimited, Retryable


@pytest.fixture
def fake():
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture
async def provider(fake):
    made = build(
        api_key="sk-test-0123456789",
        base_url=fake.url,
        model=None,
        connect_timeout=2.0,
        timeout=3.0,
        max_connections=16,
    )
    yield made
    await made.aclose()


async def test_vectors_of_a_request_and_what_it_cost(provider, fake):
    """One request, plain floats, no wish for a dimension; counted tokens beside the vectors."""
    answer = await provider.embed(["one", "two"], model="m")

    assert [list(vector) for vector in answer.vectors] == [vector_of(text, "m", 8) for text in ("one", "two")]
    assert (answer.model, answer.tokens) == ("m", 2)
    (request,) = fake.embedder.requests
    assert {name: request[name] for name in ("model", "input", "encoding_format")} == {
        "model": "m",
        "input": ["one", "two"],
        "encoding_format": "float",
    }
    assert "dimensions" not in request


async def test_request_carries_its_job_as_idempotency_key_on_every_attempt(provider, fake):
    """A proxy or an audit knows what was asked twice; other texts have another key."""
    job = uuid4()
    for attempt, text in ((1, "one"), (2, "one"), (2, "two")):
        current_run.set(Run("vectorization.embed", job, version=2 * attempt, attempt=attempt))
        await provider.embed([text], model="m")

    first, again, other = [request["key"] for request in fake.embedder.requests]
    assert first == again != other
    assert first.startswith(str(job))


@pytest.mark.parametrize(
    ("fault", "meaning", "line"),
    [
        ({"kind": "status", "status": 503}, Retryable, "HTTP 503: refused"),
        ({"kind": "status", "status": 401}, Retryable, "refused the credentials"),
        ({"kind": "status", "status": 501}, Permanent, "does not implement this call"),
        ({"kind": "status", "status": 429}, RateLimited, "asks to wait"),
        ({"kind": "status", "status": 429, "code": "insufficient_quota"}, Retryable, "quota is exhausted"),
        (
            {"kind": "status", "status": 500, "message": "input is too large to process"},
            Permanent,
            "input exceeds the model's context",
        ),
        ({"kind": "disconnect"}, Retryable, "unreachable"),
        ({"kind": "hang"}, Retryable, "did not answer in time"),
        ({"kind": "zeros"}, Permanent, "zeros only"),
        ({"kind": "error_200"}, Retryable, "HTTP 502"),
    ],
)
async def test_failure_is_classified_as_for_questions(provider, fake, fault, meaning, line):
    """And quotes no key."""
    fake.script(embeddings={"faults": [fault]})

    with pytest.raises(meaning) as failure:
        await provider.embed(["a"], model="m")

    assert line in str(failure.value)
    assert "sk-test" not in str(failure.value)


async def test_retry_after_is_heeded(provider, fake):
    """The job is snoozed for as long as the server says."""
    fake.script(embeddings={"faults": [{"kind": "status", "status": 429, "retry_after": "7"}]})

    with pytest.raises(RateLimited) as refusal:
        await provider.embed(["a"], model="m")

    assert refusal.value.delay == timedelta(seconds=7)


async def test_no_more_requests_are_in_flight_than_allowed_and_waiting_costs_no_time(provider, fake):
    """Who waits for its turn is not timed out by it: a request's time begins when it is sent."""
    fake.script(embeddings={"delay_ms": 400})

    await asyncio.gather(*(provider.embed([str(number)], model="m") for number in range(72)))

    assert fake.embedder.max_in_flight == provider.embedding_limits.requests == 8
