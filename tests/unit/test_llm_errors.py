"""How a provider's failure decides a job's fate."""

from datetime import UTC, datetime, timedelta

import httpx2
import openai
import pytest

from workers.llm.errors import classify, delay_of, names_response_format
from workers.runtime.errors import Permanent, RateLimited, Refused, Retryable

KEY = "sk-proj-verysecret1234"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def refusal(status, body=None, **headers):
    """Return the error that the client raises for such an answer."""
    request = httpx2.Request("POST", "http://llm.test/v1", headers={"authorization": f"Bearer {KEY}"})
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx2.Response(status, headers=named, json=body, request=request)
    return openai.APIStatusError("raw", response=response, body=body.get("error", body) if body else None)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 529, 408, 409])
def test_server_trouble_is_retried(status):
    """What may pass by itself costs an attempt and is tried again."""
    assert isinstance(classify(refusal(status)), Retryable)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 501])
def test_refused_request_is_permanent(status):
    """What no repetition can change fails at once."""
    assert isinstance(classify(refusal(status)), Permanent)


def test_timeout_and_lost_connection_are_retried():
    """No answer says nothing against the request."""
    request = httpx2.Request("POST", "http://llm.test/v1")

    for error in (openai.APITimeoutError(request), openai.APIConnectionError(request=request), TimeoutError()):
        assert isinstance(classify(error), Retryable)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "2500", "retry-after": "9"}, 2.5),
        ({"retry-after": "Sat, 21 Nov 2026 12:00:30 GMT"}, 30),
        ({"retry-after": "Sat, 21 Nov 2026 11:00:00 GMT"}, 0.5),
        ({"retry-after": "0"}, 0.5),
        ({"retry-after": "86400"}, 900),
        ({"retry-after": "soon"}, 20),
        ({"retry-after": "-5"}, 20),
        ({}, 20),
    ],
)
def test_retry_after_is_read_within_bounds(headers, expected):
    """Seconds, milliseconds and dates are understood; nonsense means 20 s, and no server parks a job for a day."""
    assert delay_of(headers, now=NOW) == timedelta(seconds=expected)


def test_retry_after_date_counts_from_the_answers_own_date():
    """A clock that is wrong here does not stretch the wait."""
    headers = {"date": "Mon, 01 Jan 2024 00:00:00 GMT", "retry-after": "Mon, 01 Jan 2024 00:00:12 GMT"}

    assert delay_of(headers) == timedelta(seconds=12)


def test_rate_limit_snoozes_as_long_as_asked():
    """429 is no failure of the job."""
    error = classify(refusal(429, {"error": {"message": "slow down"}}, retry_after="3"))

    assert isinstance(error, RateLimited)
    assert error.delay == timedelta(seconds=3)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (429, "Request too large for gpt-4o in organization o on tokens per min (TPM): Limit 40000, Requested 98000."),
        (413, "Request too large for model `llama` on tokens per minute (TPM): Limit 6000, Requested 9804"),
    ],
)
def test_request_beyond_the_limit_itself_is_not_waited_with(status, message):
    """It would be too large for ever; a smaller one may pass."""
    error = classify(refusal(status, {"error": {"message": message, "code": "rate_limit_exceeded"}}, retry_after="3"))

    assert isinstance(error, Refused)
    assert "exceeds what the provider takes at once" in str(error)


@pytest.mark.parametrize(("status", "code"), [(429, "insufficient_quota"), (402, None)])
def test_exhausted_quota_waits_minutes_and_says_so(status, code):
    """An empty account is not asked again every few seconds, and the reason names it."""
    error = classify(refusal(status, {"error": {"message": "pay", "code": code}}, retry_after="1"))

    assert isinstance(error, RateLimited)
    assert error.delay == timedelta(minutes=5)
    assert "quota" in str(error)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"message": "too long", "code": "context_length_exceeded"}),
        (400, {"message": "This model's maximum context length is 8192 tokens"}),
        (500, {"message": "the request exceeds the available context size, try increasing it"}),
        (500, {"message": "input is too large to process. increase the physical batch size"}),
    ],
)
def test_over_long_input_is_permanent_whatever_the_status(status, error):
    """Servers that answer over-long input with 500 are not sent it again."""
    result = classify(refusal(status, {"error": error}))

    assert isinstance(result, Refused)
    assert "context" in str(result)


def test_refused_content_is_permanent_and_named():
    """The operator reads that the content was refused, not just a status."""
    result = classify(refusal(400, {"error": {"message": "flagged", "code": "content_filter"}}))

    assert isinstance(result, Refused)
    assert "refused the content" in str(result)


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_messages_are_one_short_line_without_the_key(status):
    """Neither the key in any form nor a long echo of the payload reaches a log."""
    said = f"Incorrect key {KEY} or sk-pr***1234 or Bearer abc.def\nfor: " + "payload " * 500

    text = str(classify(refusal(status, {"error": {"message": said}})))

    assert "\n" not in text
    assert len(text) < 300
    assert KEY not in text
    assert "sk-pr***" not in text
    assert "abc.def" not in text


def test_validation_details_that_echo_the_input_are_not_quoted():
    """FastAPI servers send the rejected input back; it stays out of the message."""
    body = {"detail": [{"loc": ["body", "messages"], "msg": "bad", "input": "private profile text"}]}

    assert "private" not in str(classify(refusal(422, body)))


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (400, "'response_format.type' must be 'json_schema' or 'text'", True),
        (422, "Structured output is unsupported by this model", True),
        (400, "Unsupported parameter: temperature", False),
        (500, "response_format", False),
    ],
)
def test_only_a_refused_format_moves_down_the_ladder(status, message, expected):
    """A refusal that does not name the format is no reason to ask in another one."""
    assert names_response_format(refusal(status, {"error": {"message": message}})) is expected
