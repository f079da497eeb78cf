"""The settlement of a job while its provider or database is away."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from workers.runtime.database import is_unusable
from workers.runtime.handler.endurance import (
    IdleRuns,
    Waited,
    after_database_outage,
    after_idle_run,
    after_provider_outage,
)
from workers.runtime.handler.errors import RateLimited, Unavailable
from workers.runtime.handler.outcomes import Fail, Retry, Snooze

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
PATIENCE = 6 * HOUR
SPANS = st.timedeltas(min_value=timedelta(), max_value=timedelta(days=30))


def away(since=NOW - HOUR, **more):
    return Unavailable("HTTP 503", provider="http://p/v1", since=since, delay=timedelta(minutes=1), **more)


def test_job_waits_and_says_for_whom_since_when_and_until_when():
    """``jobs why`` shows this reason."""
    outcome = after_provider_outage(away(), None, now=NOW, patience=PATIENCE)

    away_since = "provider http://p/v1 is away since 2026-11-30 11:00 UTC (HTTP 503)"
    reason = f"{away_since} as this request found, next try at 12:01:00 UTC"
    paused = after_provider_outage(away(paused=True), None, now=NOW, patience=PATIENCE)

    assert outcome == Snooze(timedelta(minutes=1), reason)
    assert paused == Snooze(timedelta(minutes=1), reason.replace(" as this request found", ""))


def test_job_waits_however_long_without_a_patience():
    """An outage is nobody's fault here: it ends no job, and the wait is as long as the provider says."""
    waited = Waited(first=timedelta(days=400), last=HOUR)

    outcome = after_provider_outage(away(NOW - timedelta(days=400)), waited, now=NOW, patience=None)

    assert isinstance(outcome, Snooze)
    assert outcome.delay == timedelta(minutes=1)


def test_job_fails_where_it_and_its_provider_have_waited_for_as_long_as_patience_lasts():
    """A long outage before the job does not fail it, nor does a long wait of the job for other outages."""
    long, short = Waited(first=PATIENCE, last=HOUR), Waited(first=HOUR, last=HOUR)

    ended = after_provider_outage(away(NOW - PATIENCE), long, now=NOW, patience=PATIENCE)

    assert isinstance(ended, Fail)
    assert "did not come back within 6 h" in ended.error
    assert isinstance(after_provider_outage(away(NOW - PATIENCE), short, now=NOW, patience=PATIENCE), Snooze)
    assert isinstance(after_provider_outage(away(NOW - PATIENCE), None, now=NOW, patience=PATIENCE), Snooze)
    assert isinstance(after_provider_outage(away(NOW - HOUR), long, now=NOW, patience=PATIENCE), Snooze)


@pytest.mark.parametrize(
    ("more", "waited", "spends"),
    [
        ({"answered": timedelta(seconds=5)}, Waited(HOUR, timedelta(minutes=1), 2), True),
        ({"answered": timedelta(minutes=2)}, Waited(HOUR, timedelta(minutes=1), 2), False),
        ({"answered": None}, Waited(HOUR, timedelta(minutes=1), 2), False),
        ({"answered": timedelta(seconds=5)}, Waited(HOUR, timedelta(minutes=1), 1), False),
        ({"answered": timedelta(seconds=5)}, None, False),
        ({"answered": timedelta(seconds=5), "certain": True}, Waited(HOUR, timedelta(minutes=1), 2), False),
        ({"answered": timedelta(seconds=5), "paused": True}, Waited(HOUR, timedelta(minutes=1), 2), False),
    ],
)
def test_attempt_is_spent_only_by_who_fails_while_others_are_answered(more, waited, spends):
    """Only a failure that the request may cause spends an attempt, and only after two free ones."""
    outcome = after_provider_outage(away(**more), waited, now=NOW, patience=PATIENCE)

    assert isinstance(outcome, Retry) is spends


@given(first=SPANS, patience=st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=7)))
def test_no_wait_is_longer_than_what_is_left_of_patience(first, patience):
    """The job fails when its patience ends, within a few seconds."""
    outcome = after_provider_outage(away(), Waited(first, first), now=NOW, patience=patience)

    if isinstance(outcome, Snooze):
        assert timedelta() < outcome.delay <= max(patience - first, timedelta(seconds=5))


def test_job_waits_for_a_database_as_long_again_and_in_the_end_pays():
    """A job with a statement that fills the disk fails in the end."""
    error = psycopg.errors.DiskFull("could not extend file")

    first = after_database_outage(error, None, max_time=PATIENCE, drawn=1)
    later = after_database_outage(error, Waited(HOUR, HOUR), max_time=PATIENCE, drawn=1)

    assert first == Snooze(timedelta(seconds=5), "database cannot be used: DiskFull: could not extend file")
    assert isinstance(later, Snooze)
    assert later.delay == timedelta(minutes=1)
    assert isinstance(after_database_outage(error, Waited(PATIENCE, HOUR), max_time=PATIENCE, drawn=1), Retry)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (psycopg.errors.DiskFull(), True),
        (psycopg.errors.OutOfMemory(), True),
        (psycopg.errors.TooManyConnections(), True),
        (psycopg.errors.CannotConnectNow(), True),
        (psycopg.errors.ReadOnlySqlTransaction(), True),
        (psycopg.OperationalError("connection refused"), True),
        (OperationalError("INSERT", {}, psycopg.errors.DiskFull()), True),
        (psycopg.errors.LockNotAvailable(), True),
        (psycopg.errors.DeadlockDetected(), True),
        (psycopg.errors.SerializationFailure(), True),
        (psycopg.errors.UniqueViolation(), False),
        (psycopg.errors.QueryCanceled(), True),
        (psycopg.ProgrammingError("a bug of ours"), False),
        (FileNotFoundError("a handler's own file"), False),
        (ConnectionResetError("of a provider"), False),
    ],
)
def test_state_of_the_database_is_told_from_a_fault_of_the_handler(error, expected):
    """Errors of a handler's own files and connections are not errors of the database."""
    assert is_unusable(error) is expected


LIMITED = RateLimited("HTTP 429: slow down", delay=timedelta(seconds=7))


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (IdleRuns(), "HTTP 429: slow down, no progress in this run"),
        (IdleRuns(18, 9 * HOUR), "HTTP 429: slow down, no progress in this run"),
        (IdleRuns(19, HOUR), "HTTP 429: slow down, no progress in 20 runs since 2026-11-30 11:00 UTC"),
    ],
)
def test_rate_limited_job_waits_and_says_that_it_makes_no_progress(before, reason):
    """After twenty runs since when; few runs wait however long ago the first was."""
    assert after_idle_run(LIMITED, before, now=NOW, max_runs=20, max_time=PATIENCE) == Snooze(LIMITED.delay, reason)


def test_rate_limited_job_fails_after_many_runs_without_progress_over_a_long_time():
    """The line says how many, since when, and what the provider said last."""
    outcome = after_idle_run(LIMITED, IdleRuns(40, PATIENCE), now=NOW, max_runs=20, max_time=PATIENCE)

    assert outcome == Fail("no progress in 41 runs since 2026-11-30 06:00 UTC: HTTP 429: slow down")
