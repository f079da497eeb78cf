"""When the next attempt is made: the schedule, its jitter, and what a receiver asks for."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.notifications.schedule import JITTER, MAX_RETRY_AFTER, SCHEDULE, delay_after, parse_retry_after

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


def test_the_schedule_is_the_one_of_the_specification():
    """Ten attempts within a bit more than three days."""
    hours = [delay_after(failed, draw=lambda: 0.0) / timedelta(hours=1) for failed in range(1, 10)]

    assert len(SCHEDULE) == 10
    assert hours == pytest.approx([5 / 3600, 5 / 60, 0.5, 2, 5, 10, 14, 20, 24])


@given(st.integers(-5, 200), st.floats(0, 1, exclude_max=True))
def test_a_wait_is_never_shorter_than_planned_and_a_fifth_longer_at_most(failed, drawn):
    """Whatever the count of failed attempts: after the last step the waits stay as long."""
    planned = SCHEDULE[min(max(failed, 1), 9)]

    assert planned <= delay_after(failed, draw=lambda: drawn) <= planned * (1 + JITTER)


@pytest.mark.parametrize(
    ("asked", "waits"),
    [
        (timedelta(seconds=1), timedelta(seconds=5)),
        (timedelta(minutes=10), timedelta(minutes=10)),
        (timedelta(days=400), MAX_RETRY_AFTER),
    ],
)
def test_the_longer_of_both_waits_counts(asked, waits):
    """And an absurd one is cut."""
    assert delay_after(1, draw=lambda: 0.0, retry_after=asked) == waits


@pytest.mark.parametrize(
    ("value", "waits"),
    [
        ("0", timedelta(0)),
        ("120", timedelta(seconds=120)),
        (" 7 ", timedelta(seconds=7)),
        ("1.5", timedelta(seconds=1.5)),
        ("99999999999999", MAX_RETRY_AFTER),
        (format_datetime(NOW + timedelta(minutes=3), usegmt=True), timedelta(minutes=3)),
        (format_datetime(NOW - timedelta(minutes=3), usegmt=True), timedelta(0)),
        ("Monday, 30-Nov-26 12:01:00 GMT", timedelta(minutes=1)),
        ("Mon Nov 30 12:01:00 2026", timedelta(minutes=1)),
        ("Mon, 30 Nov 9999 12:01:00 GMT", MAX_RETRY_AFTER),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("NaN", None),
        ("inf", None),
        ("1e9", None),
        ("12 seconds", None),
        ("2026-13-45", None),
        ("١٢", None),
        ("\x00", None),
        ("9" * 400, None),
    ],
)
def test_each_form_of_retry_after_is_read_and_nonsense_is_none(value, waits):
    """Seconds, the three forms of an HTTP date, and what receivers send instead."""
    assert parse_retry_after(value, now=NOW) == waits


@given(st.text(max_size=60))
def test_no_retry_after_raises(value):
    """It comes from a stranger."""
    found = parse_retry_after(value, now=NOW)

    assert found is None or timedelta(0) <= found <= MAX_RETRY_AFTER
