"""How a provider's failure decides a job's fate."""

from datetime import UTC, datetime, timedelta

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.llm.errors import classify, delay_of, names_response_format
from workers.runtime.handler.errors import Permanent, RateLimited, Refused, Retryable, Unavailable

KEY = "sk-proj-verysecret1234"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def refusal(status, body=None, **headers):
    """Return the error that the client raises for such an answer."""
    request = httpx2.Request("POST", "http://llm.test/v1", headers={"authorization": f"Bearer {KEY}"})
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx2.Response(status, headers=named, json=body, request=request)
    return openai.APIStatusError("raw", response=response, body=body.get("error", body) if body else None)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 529, 408, 409, 301, 307])
def test_server_trouble_is_waited_for(status):
    """What may pass by itself is not the job's fault."""
    assert isinstance(classify(refusal(status)), Unavailable)


@pytest.mark.parametrize("status", [401, 402, 403])
def test_refused_key_is_waited_for_and_speaks_of_the_provider(status):
    """A key that ran out or was taken back is mended by people; no job is to blame, whatever it asks."""
    error = classify(refusal(status))

    assert isinstance(error, Unavailable)
    assert error.certain


def test_moderated_content_is_refused_though_its_status_is_that_of_a_key():
    """Proxies answer 403 for what they do not let through; waiting does not change it."""
    assert isinstance(classify(refusal(403, {"error": {"message": "input was flagged by moderation"}})), Refused)


@pytest.mark.parametrize(
    ("status", "headers", "certain"),
    [(500, {}, False), (503, {}, True), (529, {}, True), (500, {"retry_after": "9"}, True)],
)
def test_what_speaks_of_the_provider_is_told_from_what_may_be_the_requests_own(status, headers, certain):
    """llama.cpp answers one request's fault with 500; overload and maintenance concern everybody."""
    error = classify(refusal(status, **headers))

    assert isinstance(error, Unavailable)
    assert error.certain is certain


def test_retry_after_of_an_outage_is_kept():
    """503 and 529 say when to come back."""
    error = classify(refusal(503, retry_after="120"))

    assert isinstance(error, Unavailable)
    assert error.delay == timedelta(seconds=120)


def test_page_in_place_of_an_api_is_a_wrong_url():
    """A 404 of a proxy or a wrong path says nothing about the model."""
    request = httpx2.Request("POST", "http://llm.test/v1")
    response = httpx2.Response(404, request=request)

    error = classify(openai.APIStatusError("raw", response=response, body="<html>not found</html>"))

    assert isinstance(error, Unavailable)
    assert "OPENAI_BASE_URL" in str(error)


@pytest.mark.parametrize("status", [400, 404, 413, 422, 501])
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
        ({"retry-after": "86400"}, 3_600),
        ({"retry-after": "9" * 90}, 3_600),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, 3_600),
        ({"retry-after": "Sat, 01 Jan 0001 00:00:00 +2359"}, 0.5),
        ({"retry-after": "Sat, 21 Nov 99999 12:00:30 GMT"}, 20),
        ({"retry-after": "Sat, 21 Nov 2026 12:00:30 +99999999999999999999"}, 20),
        ({"retry-after": "1e3"}, 20),
        ({"retry-after": "inf"}, 20),
        ({"retry-after": "nan"}, 20),
        ({"retry-after": "\u0663"}, 20),
        ({"retry-after": ","}, 20),
        ({"retry-after": ""}, 20),
        ({"retry-after-ms": "-1", "retry-after": "9"}, 9),
        ({"retry-after": "soon"}, 20),
        ({"retry-after": "-5"}, 20),
        ({}, 20),
    ],
)
def test_retry_after_is_read_within_bounds(headers, expected):
    """Seconds, milliseconds and dates are understood; nonsense means 20 s, and no wait is longer than an hour."""
    assert delay_of(headers, now=NOW) == timedelta(seconds=expected)


@given(st.text(max_size=60))
def test_no_retry_after_raises(text):
    """Whatever a server writes, a wait within bounds comes of it."""
    assert timedelta(seconds=0.5) <= delay_of({"retry-after": text}, now=NOW) <= timedelta(hours=1)


def test_longest_of_several_retry_after_counts():
    """A proxy and the server behind it may both write one."""
    headers = httpx2.Headers([("retry-after", "3"), ("retry-after", "soon"), ("retry-after", "9")])

    assert delay_of(headers, now=NOW) == timedelta(seconds=9)


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

    assert isinstance(error, Unavailable)
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
