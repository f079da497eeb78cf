"""Lines of results, whatever a provider makes of them."""

import json
from uuid import UUID

import pytest

from workers.llm.batch_lane.apis import batches_url
from workers.llm.batch_lane.lane import custom_id, key_of
from workers.llm.batch_lane.results import LineResult, results_of
from workers.runtime.handler.batches import Batching

JOB = UUID("01a22c1a-6bb3-7e15-8dce-2de367b2e425")
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
BODY = {"choices": [{"message": {"content": "x"}}], "model": "m-1", "usage": USAGE}


def line(**members):
    return json.dumps({"custom_id": "a"} | members)


def only(text) -> LineResult:
    [found] = results_of([text])
    return found


def test_an_answer_has_its_body_its_usage_and_the_model_that_gave_it():
    """Nothing of it is lost: the ledger and the job read it."""
    found = only(line(response={"status_code": 200, "body": BODY}, error=None))

    assert json.loads(found.answer or "") == BODY
    assert (found.served_model, found.tokens("prompt_tokens"), found.tokens("completion_tokens")) == ("m-1", 3, 2)
    assert found.failure is None


@pytest.mark.parametrize(
    ("members", "failure", "hopeless"),
    [
        (
            {"response": None, "error": {"code": "batch_expired", "message": "too late"}},
            "batch_expired: too late",
            False,
        ),
        ({"response": {"status_code": 500, "body": {"error": {"message": "oops"}}}}, "HTTP 500: oops", False),
        ({"response": {"status_code": 429, "body": {"error": {"message": "slow"}}}}, "HTTP 429: slow", False),
        (
            {"response": {"status_code": 400, "body": {"error": {"code": "bad", "message": "no"}}}},
            "HTTP 400 bad: no",
            True,
        ),
        ({"response": {"status_code": 200, "body": "text"}}, "HTTP 200: no answer", False),
        ({"response": {"status_code": 200, "body": BODY}, "error": {"message": "half"}}, "HTTP 200: half", False),
        ({}, "no answer", False),
        ({"response": None, "error": "just words"}, "just words", False),
        ({"response": {"status_code": "200", "body": BODY}}, "HTTP 200: no answer", False),
    ],
)
def test_a_line_without_an_answer_says_why(members, failure, hopeless):
    """What the provider refuses for good is not sent to it in another batch."""
    found = only(line(**members))

    assert (found.answer, found.failure, found.is_hopeless) == (None, failure, hopeless)


def test_a_failure_shows_no_key():
    """Providers quote keys."""
    found = only(line(response=None, error={"message": "wrong key sk-abcdefghijklmnopqrstuvwxyz123456"}))

    assert "sk-abc" not in (found.failure or "")


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '{"custom_id": 7}', "{}", "\x00", '{"custom_id": "a"' * 10])
def test_what_nobody_can_read_is_left_out(text):
    """Its line has no result then, as if it had not been sent back."""
    assert list(results_of([text])) == []


def test_an_answer_that_nobody_can_store_is_none():
    """It is nested too deeply; a NUL is replaced."""
    deep: object = 1
    for _ in range(100):
        deep = [deep]

    assert only(line(response={"status_code": 200, "body": BODY | {"deep": deep}})).failure
    nul = only(line(response={"status_code": 200, "body": BODY | {"id": "a\x00b"}}))
    assert "\\u0000" not in (nul.answer or "")


def test_a_question_has_the_same_key_in_each_run_whatever_its_bound():
    """The bound of an answer depends on what a process knows of the model; another try is another question."""
    asked = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
    first = key_of(json.dumps(asked | {"max_tokens": 10}), 0)

    assert key_of(json.dumps(asked | {"max_tokens": 20}), 0) == first
    assert key_of(json.dumps(dict(reversed((asked | {"max_completion_tokens": 20}).items()))), 0) == first
    assert key_of(json.dumps(asked | {"max_tokens": 10}), 1) != first
    assert key_of(json.dumps(asked | {"temperature": 0}), 0) != first


def test_a_line_is_named_by_its_job_and_version():
    """Providers take names of 64 characters at most."""
    batch = Batching(job_id=JOB, lines_of=JOB, provider="p", model="m")
    name = custom_id(batch.job_id, 1_999_999_999, b"12345678901234567890")

    assert name == f"{JOB.hex}-1999999999-3132333435363738"
    assert len(name) <= 64


@pytest.mark.parametrize(
    ("base", "batches"),
    [
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/beta"),
        ("https://openrouter.ai/api/v1/", "https://openrouter.ai/api/beta"),
        ("http://localhost:8080/proxy", "http://localhost:8080/proxy/beta"),
    ],
)
def test_batches_of_openrouter_have_their_own_address(base, batches):
    """Beside that of its completions."""
    assert batches_url(base) == batches
