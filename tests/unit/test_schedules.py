"""When a schedule is due: cron in a time zone, across the clock's changes, and after a time without any beat."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.runtime.schedules import MOST_CAUGHT_UP, ScheduleError, check, due_times, next_time

MOMENTS = st.datetimes(datetime(2024, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - in UTC
ZONES = st.sampled_from(["UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"])
CRONS = st.sampled_from(["* * * * *", "*/10 * * * *", "30 2 * * *", "0 0 1 * *", "15 3 * * 1-5", "0 12 29 2 *"])
POLICIES = st.sampled_from(["skip", "one", "all"])


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@given(cron=CRONS, zone=ZONES, after=MOMENTS)
def test_the_next_time_lies_ahead_and_reads_right_on_the_wall(cron, zone, after):
    """Always later than asked, in UTC; but for hours that the clock skips, the wall shows what the cron says."""
    time = next_time(cron, zone, after=after)

    assert time > after
    assert time.tzinfo is UTC
    minute = cron.split()[0]
    if minute.isdecimal() and zone in {"UTC", "Asia/Kathmandu"}:
        assert time.astimezone(ZoneInfo(zone)).minute == int(minute)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("2026-03-28T12:00", "2026-03-29T01:00"),  # 02:30 does not exist that night: it fires as the clock jumps to 3
        ("2026-03-29T12:00", "2026-03-30T00:30"),
        ("2026-10-24T12:00", "2026-10-25T00:30"),  # 02:30 comes twice that night: it fires at the first
        ("2026-10-25T00:30", "2026-10-26T01:30"),
    ],
)
def test_a_daily_time_fires_once_on_the_nights_when_the_clock_changes(after, expected):
    """Half past two in Paris, the hour that is skipped in March and repeated in October."""
    assert next_time("30 2 * * *", "Europe/Paris", after=utc(after)) == utc(expected)


def test_every_ten_minutes_goes_on_through_the_repeated_hour():
    """An interval counts real time, not the wall's."""
    start = utc("2026-10-24T23:55")

    due = due_times("*/10 * * * *", "Europe/Paris", last=start, now=start + timedelta(hours=3), catch_up="all")

    assert len(due) == 18
    assert {later - earlier for earlier, later in pairwise(due)} == {timedelta(minutes=10)}


@given(cron=CRONS, zone=ZONES, last=MOMENTS, gap=st.timedeltas(timedelta(), timedelta(days=2)), policy=POLICIES)
def test_what_is_due_is_new_past_ordered_and_bounded(cron, zone, last, gap, policy):
    """Never a time that already fired, never one to come, never more than the policy allows."""
    due = due_times(cron, zone, last=last, now=last + gap, catch_up=policy)

    assert all(last < time <= last + gap for time in due)
    assert due == sorted(set(due))
    assert len(due) <= (MOST_CAUGHT_UP if policy == "all" else 1)


@given(cron=CRONS, zone=ZONES, last=MOMENTS, gap=st.timedeltas(timedelta(), timedelta(hours=6)))
def test_looking_often_or_once_fires_the_same(cron, zone, last, gap):
    """With ``all``, a beat that sleeps makes up for every time it missed."""
    now, middle = last + gap, last + gap / 2

    early = due_times(cron, zone, last=last, now=middle, catch_up="all")
    late = due_times(cron, zone, last=max([last, *early]), now=now, catch_up="all")

    assert (early + late)[-MOST_CAUGHT_UP:] == due_times(cron, zone, last=last, now=now, catch_up="all")


def test_of_many_missed_times_one_fires_the_newest():
    """A report is wanted once, however long nobody made it."""
    due = due_times("0 * * * *", "UTC", last=utc("2026-01-01T00:00"), now=utc("2026-01-03T05:10"), catch_up="one")

    assert due == [utc("2026-01-03T05:00")]


@pytest.mark.parametrize(("now", "fires"), [("2026-01-01T05:00:59", True), ("2026-01-01T05:01:00", False)])
def test_skip_fires_only_what_is_less_than_a_minute_late(now, fires):
    """A reminder for five o'clock is worth nothing at noon."""
    due = due_times("0 * * * *", "UTC", last=utc("2026-01-01T00:00"), now=utc(now), catch_up="skip")

    assert due == ([utc("2026-01-01T05:00")] if fires else [])


def test_all_stops_at_its_bound():
    """A beat that was away for a month does not flood the workers."""
    due = due_times("* * * * *", "UTC", last=utc("2026-01-01T00:00"), now=utc("2026-02-01T00:00"), catch_up="all")

    assert len(due) == MOST_CAUGHT_UP
    assert due[-1] == utc("2026-02-01T00:00")


@pytest.mark.parametrize(
    ("cron", "timezone", "message"),
    [
        ("* * * *", "UTC", r"cron must have five fields that make sense .*, got '\* \* \* \*'"),
        ("61 * * * *", "UTC", "cron must have five fields"),
        ("0 0 30 2 *", "UTC", "cron must"),
        ("0 0 * * *", "Mars/Olympus", "timezone must be an IANA name such as Europe/Paris, got 'Mars/Olympus'"),
        ("0 0 * * *", "../../etc/passwd", "timezone must be an IANA name"),
    ],
)
def test_what_cannot_be_understood_is_refused_in_one_line(cron, timezone, message):
    """The message names the field, the rule and the value."""
    with pytest.raises(ScheduleError, match=message):
        check(cron, timezone)
