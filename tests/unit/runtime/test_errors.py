"""The settlement for each exception, and its one line."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from workers.runtime.handler.errors import (
    MAX_ERROR_CHARACTERS,
    InvalidAnswers,
    Permanent,
    RateLimited,
    Refused,
    Retryable,
    RetryIn,
    describe,
    outcome_of,
)
from workers.runtime.handler.outcomes import Fail, Retry, Snooze


@pytest.mark.parametrize("kind", [Permanent, Refused])
def test_permanent_fails_at_once(kind):
    """No further attempt is made."""
    assert outcome_of(kind("model is not known")) == Fail("model is not known")


def test_rate_limit_snoozes_for_as_long_as_it_says():
    """A rate limit costs no attempt."""
    delay = timedelta(seconds=17)

    assert outcome_of(RateLimited("429 of the provider", delay=delay)) == Snooze(delay, "429 of the provider")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (Retryable("answered 503"), "answered 503"),
        (InvalidAnswers("no JSON twice"), "no JSON twice"),
        (TimeoutError(), "TimeoutError"),
        (ConnectionResetError("reset by peer"), "ConnectionResetError: reset by peer"),
        (KeyError("score"), "KeyError: 'score'"),
    ],
)
def test_anything_else_is_retried_with_its_reason(error, line):
    """An unknown error may be temporary: the job is retried while attempts are left."""
    assert outcome_of(error) == Retry(line)


@given(st.text(alphabet=st.characters(codec=None)))
def test_every_message_becomes_one_line_that_postgres_can_keep(message):
    """The line has no newline, NUL or lone surrogate, and a limited length, so Postgres accepts it."""
    line = describe(RuntimeError(message))

    assert len(line) <= MAX_ERROR_CHARACTERS
    assert not set(line) & set("\n\r\x00")
    assert line.encode("utf-8").decode("utf-8") == line


def test_a_database_error_keeps_statement_and_parameters_to_itself():
    """SQLAlchemy quotes both in its message; they must not reach a log."""
    error = DBAPIError("INSERT INTO scoring_jobs …", {"prompt": "a private prompt"}, ValueError("out of range"))

    assert "private" not in describe(error)
    assert describe(error).endswith("out of range")


def test_an_answer_that_costs_much_is_asked_for_again_later():
    error = InvalidAnswers("too large", min_delay=timedelta(seconds=30))

    assert outcome_of(error) == Retry("too large", timedelta(seconds=30))
    assert outcome_of(InvalidAnswers("no JSON")) == Retry("no JSON")


def test_a_handler_with_a_schedule_says_when_the_next_attempt_is_made():
    """It spends an attempt."""
    assert outcome_of(RetryIn("answered 500", delay=timedelta(hours=2))) == Retry(
        "answered 500", delay=timedelta(hours=2)
    )
