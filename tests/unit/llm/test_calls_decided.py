"""The pure parts of a call's way: when another step is asked, what a call may have cost, how long it takes."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import httpx2
import openai
import pytest

from workers.judging.judgement import path_flags
from workers.llm.calls import NotAdmittedError
from workers.llm.errors import classify, of_status, reset_delay
from workers.llm.fallback import OUT_OF_TIME, Tried, max_attempts, may_go_on, none_answered, path_record
from workers.llm.pace import Pace
from workers.llm.routing.routing import Step
from workers.llm.usage import estimated, may_be_charged, usage_in, usage_of
from workers.runtime.handler.errors import InvalidAnswers, Permanent, RateLimited, Refused, Unavailable

REQUEST = httpx2.Request("POST", "http://p.test/v1/chat/completions")
A, B = Step(provider="a", model="m"), Step(provider="b", model="n")
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


def refused(seconds=1.0, limit="requests per minute of a", **more):
    return NotAdmittedError("too many", delay=timedelta(seconds=seconds), limit=limit, **more)


@pytest.mark.parametrize(
    ("error", "goes_on"),
    [
        (Unavailable("HTTP 503"), True),
        (RateLimited("slowly", delay=timedelta(minutes=1)), True),
        (refused(), True),
        (refused(limit="quota of provider a"), True),
        (refused(is_budget=True), False),
        (refused(limit=OUT_OF_TIME), False),
        (Refused("no"), False),
        (Permanent("bad request"), False),
        (InvalidAnswers("prose"), False),
        (ValueError("a bug"), False),
    ],
)
def test_another_step_is_asked_for_the_providers_faults_only(error, goes_on):
    """Never for the question's own."""
    assert may_go_on(error) == goes_on


@pytest.mark.parametrize(("steps", "most"), [(1, 2), (2, 4), (3, 6), (10, 6)])
def test_attempts_are_of_the_whole_path(steps, most):
    """Two a step, six at most."""
    assert max_attempts(steps) == most


def test_a_job_waits_for_the_step_that_is_back_first():
    """With every step's reason; where all are away, it is an outage and has its patience."""
    away, limited = Unavailable("HTTP 503", delay=timedelta(seconds=60)), refused(seconds=20)

    told = none_answered("r", [Tried(A, away), Tried(B, limited)])

    assert isinstance(told, NotAdmittedError)
    assert told.delay == timedelta(seconds=20)
    assert str(told) == "no step of route 'r' can answer (a: provider is away: HTTP 503; b: too many)"
    assert none_answered("r", [Tried(A, away), Tried(B, Unavailable("x", delay=timedelta(seconds=5)))]).delay == (
        timedelta(seconds=5)
    )
    assert none_answered("r", [Tried(A, limited)]) is limited


def test_a_path_is_told_only_where_another_answered():
    """With what each step before had to say, in words that a person reads."""
    path = path_record([Tried(A, Unavailable("HTTP 503"))], B)

    assert path_record([], A) == []
    assert path == [
        {"provider": "a", "model": "m", "why_not": "provider failed (HTTP 503)"},
        {"provider": "b", "model": "n"},
    ]
    assert path_flags(path) == ["answered by b n instead (a m: provider failed (HTTP 503))"]
    assert path_flags([]) == []


def raised(cause: BaseException) -> BaseException:
    """Return what the client would raise for ``cause``, read as the kernel's error."""
    error = openai.APIConnectionError(request=REQUEST)
    error.__cause__ = cause
    told = classify(error)
    told.__cause__ = error
    return told


@pytest.mark.parametrize(
    ("error", "charged"),
    [
        (raised(httpx2.ConnectError("no")), False),
        (raised(httpx2.ConnectTimeout("no")), False),
        (raised(httpx2.ReadError("cut")), True),
        (raised(httpx2.RemoteProtocolError("cut")), True),
        (TimeoutError(), True),
        (asyncio.CancelledError(), True),
    ],
)
def test_what_was_not_reached_charges_nothing(error, charged):
    """What was cut off while it answered may."""
    assert may_be_charged(error, answered=False) == charged


@pytest.mark.parametrize(
    ("error", "charged"), [(Refused("no"), True), (InvalidAnswers("deep"), True), (Unavailable("a page"), False)]
)
def test_a_whole_answer_without_usage_is_charged_if_a_model_wrote_it(error, charged):
    """A proxy's page is nobody's answer."""
    assert may_be_charged(error, answered=True) == charged


def test_usage_is_kept_by_class_and_as_it_came():
    """Cached and reasoning tokens have prices of their own; what is not said is unknown, not zero."""
    raw = {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 64},
        "completion_tokens_details": {"reasoning_tokens": 7},
    }

    usage = usage_of(raw, served_model="m-1", seconds=1.0)

    assert (usage.input_tokens, usage.cached_input_tokens) == (100, 64)
    assert (usage.output_tokens, usage.reasoning_tokens) == (20, 7)
    assert usage.raw == raw
    assert usage_of(None, served_model=None, seconds=1.0).input_tokens is None
    assert usage_of({"total_tokens": 9}, served_model=None, seconds=1.0).input_tokens == 9


@pytest.mark.parametrize("body", ["", "<html>", "[]", "{}", '{"usage": null}', '{"usage": {"prompt_tokens": "many"}}'])
def test_a_body_without_usage_has_none(body):
    assert usage_in(body, seconds=1.0) is None


@pytest.mark.parametrize("text", ["plain words", "Größe", "名前", "\\u0041", "🙂"])
def test_an_estimate_is_no_less_than_a_third_of_the_bytes(text):
    """Whatever the language; JSON writes other letters in six characters."""
    body = {"messages": [{"role": "user", "content": text * 50}], "max_tokens": 7}

    tokens, most = estimated(body, json.dumps(body), default_output=9)

    assert tokens >= len((text * 50).encode()) / 3
    assert most == 7
    assert estimated({}, "{}", default_output=9)[1] == 9


def test_pace_remembers_the_longest_and_forgets_it_slowly():
    """No call is begun that has no time; one that hung once does not count for ever."""
    pace = Pace(90.0)
    assert pace.needed("m") == 1.0
    pace.note("m", 8.0)
    assert pace.needed("m") == pytest.approx(10.0)
    for _ in range(100):
        pace.note("m", 0.2)
    assert pace.needed("m") == 1.0
    pace.note("m", 600.0)
    assert pace.needed("m") == 90.0
    assert pace.needed("another") == 1.0


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m6.5s"}, 66.5),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20ms"}, 0.02),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "17h3m2s"}, 61_382.0),
        ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "1m"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "soon"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": ""}, None),
        ({"x-ratelimit-reset": str(int((NOON.timestamp() + 90) * 1_000))}, 90.0),
        ({"x-ratelimit-reset": "17"}, None),
        ({"x-ratelimit-reset": "9" * 90}, 2_203_960_000.0),
        ({}, None),
    ],
)
def test_the_end_of_a_limit_is_read_from_its_headers(headers, wait):
    """OpenAI's durations and OpenRouter's moment; whatever else stands there says nothing."""
    found = reset_delay(headers, now=NOON)

    assert (None if found is None else round(found.total_seconds(), 3)) == wait


@pytest.mark.parametrize(
    ("message", "headers", "hours"),
    [
        ("Rate limit reached for requests per day (RPD)", {}, 12),
        ("free-models-per-day exceeded", {"retry-after": "7200"}, 2),
        ("Daily limit", {"retry-after": "999999"}, 25),
        ("Rate limit reached for requests per minute", {"retry-after": "999999"}, 1),
    ],
)
def test_a_limit_per_day_ends_with_the_day(message, headers, hours):
    """Row 24: it waits for its reset, where any other limit is asked again within an hour."""
    error = of_status(429, code=None, message=message, headers=headers, now=NOON)

    assert isinstance(error, RateLimited)
    assert error.delay == timedelta(hours=hours)
    assert ("per day" in str(error).partition(" (HTTP")[0]) == (hours != 1)
