"""When a schedule is due: a cron in a time zone, during clock changes, and after a time without a beat."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.runtime.beat.cron import (
    MAX_CAUGHT_UP,
    ScheduleError,
    check_cron,
    clock_changes,
    due_times,
    next_time,
    plain_cron,
)

MOMENTS = st.datetimes(datetime(2024, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - in UTC
ZONES = st.sampled_from(["UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"])
CRONS = st.sampled_from(["* * * * *", "*/10 * * * *", "30 2 * * *", "0 0 1 * *", "15 3 * * 1-5", "0 12 29 2 *"])
POLICIES = st.sampled_from(["skip", "one", "all"])


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@given(cron=CRONS, zone=ZONES, after=MOMENTS)
def test_the_next_time_lies_ahead_and_reads_right_on_the_wall(cron, zone, after):
    """It is always later, in UTC. Except for skipped hours, the local time matches the cron."""
    time = next_time(cron, zone, after=after)

    assert time > after
    assert time.tzinfo is UTC
    minute = cron.split()[0]
    if minute.isdecimal() and zone in {"UTC", "Asia/Kathmandu"}:
        assert time.astimezone(ZoneInfo(zone)).minute == int(minute)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("2026-03-28T12:00", "2026-03-29T01:00"),  # 02:30 does not exist that night: it fires when the clock jumps to 3
        ("2026-03-29T12:00", "2026-03-30T00:30"),
        ("2026-10-24T12:00", "2026-10-25T00:30"),  # 02:30 comes twice that night: it fires the first time
        ("2026-10-25T00:30", "2026-10-26T01:30"),
    ],
)
def test_a_daily_time_fires_once_on_the_nights_when_the_clock_changes(after, expected):
    """Half past two in Paris is skipped in March and comes twice in October."""
    assert next_time("30 2 * * *", "Europe/Paris", after=utc(after)) == utc(expected)


def test_every_ten_minutes_goes_on_through_the_repeated_hour():
    """An interval counts real time, not local time."""
    start = utc("2026-10-24T23:55")

    due = due_times("*/10 * * * *", "Europe/Paris", last=start, now=start + timedelta(hours=3), catch_up="all")

    assert len(due) == 18
    assert {later - earlier for earlier, later in pairwise(due)} == {timedelta(minutes=10)}


# Their clocks change in that time: by an hour, by half an hour, at midnight, by two hours, at a quarter to three.
CHANGES = {
    "Europe/Berlin": ("2027-03-28T01:00", "2026-10-25T01:00"),
    "America/New_York": ("2027-03-14T07:00", "2026-11-01T06:00"),
    "Australia/Lord_Howe": ("2026-10-03T15:30", "2027-04-03T15:00"),
    "America/Havana": ("2027-03-14T05:00", "2026-11-01T05:00"),
    "Antarctica/Troll": ("2027-03-28T01:00", "2026-10-25T01:00"),
    "Pacific/Chatham": ("2026-09-26T14:00", "2027-04-03T14:00"),
    "Africa/Cairo": ("2027-04-29T22:00", "2026-10-29T21:00"),
}
JUMPS = [(zone, jump) for zone, jumps in CHANGES.items() for jump in jumps]
OF_THE_DAY = {
    "30 2 * * *": [(2, 30)],
    "15 0,1 * * *": [(0, 15), (1, 15)],
    "0,50 1-3 * * *": [(hour, minute) for hour in (1, 2, 3) for minute in (0, 50)],
}
INTERVALS: dict[str, Callable[[datetime], bool]] = {
    "* * * * *": lambda _: True,
    "*/7 * * * *": lambda wall: wall.minute % 7 == 0,
    "*/20 2 * * *": lambda wall: wall.hour == 2 and wall.minute % 20 == 0,
    "15 */2 * * *": lambda wall: wall.hour % 2 == 0 and wall.minute == 15,
}


def minutes_around(jump: str) -> list[datetime]:
    return [utc(jump) + timedelta(minutes=n) for n in range(-36 * 60, 36 * 60)]


def all_between(cron: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    """Return every time after ``start`` up to ``end``, by repeated calls of ``next_time``."""
    found = []
    while (start := next_time(cron, zone, after=start)) <= end:
        found.append(start)
    return found


def backwards(cron: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    """Return the same as beat finds it: newest first, a hundred at a time."""
    found: list[datetime] = []
    while due := due_times(cron, zone, last=start, now=end, catch_up="all"):
        found = due + found
        end = due[0] - timedelta(seconds=1)
    return found


@pytest.mark.parametrize("cron", INTERVALS)
@pytest.mark.parametrize(("zone", "jump"), JUMPS)
def test_an_interval_fires_whenever_the_wall_shows_a_time_of_its(zone, jump, cron):
    """Checked minute by minute through every kind of clock change, forwards and backwards."""
    minutes = minutes_around(jump)
    expected = [time for time in minutes if INTERVALS[cron](time.astimezone(ZoneInfo(zone)))]
    just_before = minutes[0] - timedelta(seconds=1)

    assert backwards(cron, zone, just_before, minutes[-1]) == expected
    if cron != "* * * * *":
        assert all_between(cron, zone, just_before, minutes[-1]) == expected


@pytest.mark.parametrize("cron", OF_THE_DAY)
@pytest.mark.parametrize(("zone", "jump"), JUMPS)
def test_a_time_of_the_day_fires_once_a_day_whatever_the_clock_does(zone, jump, cron):
    """It fires when the local clock has reached it; one change that skips several times gives one firing."""
    minutes = minutes_around(jump)
    expected = set()
    wall_before: dict[object, list[tuple[int, int]]] = {}
    for time in minutes:
        wall = time.astimezone(ZoneInfo(zone))
        reached = wall_before.setdefault(wall.date(), [])
        for wanted in OF_THE_DAY[cron]:
            if wanted not in reached and (wall.hour, wall.minute) >= wanted:
                reached.append(wanted)
                expected.add(time)
    first_day = minutes[0].astimezone(ZoneInfo(zone)).date()
    start = min(time for time in minutes if time.astimezone(ZoneInfo(zone)).date() > first_day) - timedelta(seconds=1)
    expected = {time for time in expected if time > start}

    assert all_between(cron, zone, start, minutes[-1]) == sorted(expected)
    assert backwards(cron, zone, start, minutes[-1]) == sorted(expected)


@pytest.mark.parametrize(
    ("cron", "zone", "told"),
    [
        ("30 2 * * *", "Europe/Berlin", [
            "2026-10-25 02:30 comes twice in Europe/Berlin: it fires at the first",
            "2027-03-28 02:30 does not exist in Europe/Berlin: it fires at 03:00",
        ]),
        ("15 2 * * *", "Australia/Lord_Howe", [
            "2026-10-04 02:15 does not exist in Australia/Lord_Howe: it fires at 02:30",
            "2027-10-03 02:15 does not exist in Australia/Lord_Howe: it fires at 02:30",
        ]),
        ("*/20 2 * * *", "Europe/Berlin", [
            "2026-10-25 02:00 comes twice in Europe/Berlin: it fires twice",
            "2027-03-28 02:00 does not exist in Europe/Berlin: it does not fire",
        ]),
        ("30 2 * * 1", "America/New_York", []),
        ("0 9 * * *", "America/New_York", []),
        ("0 * * * *", "America/New_York", []),
        ("30 2 * * *", "UTC", []),
    ],
)  # fmt: skip
def test_a_time_that_a_clock_skips_or_repeats_is_told(cron, zone, told):
    """A new schedule lists the effects of the coming year; an unaffected schedule lists none."""
    assert clock_changes(cron, zone, after=utc("2026-09-01T00:00")) == told


@given(
    cron=st.from_regex(r"(\*|[1-5]?[0-9])(/[1-9])? (\*|1?[0-9])(/[1-9])? \* (\*|1?[1-9]) (\*|[0-7])", fullmatch=True),
    zone=st.sampled_from(sorted(CHANGES)),
    after=MOMENTS,
)
def test_a_cron_comes_or_is_refused_in_every_zone(cron, zone, after):
    """No pair of cron and zone loops forever, as the library alone would."""
    try:
        assert next_time(cron, zone, after=after) > after
    except ScheduleError:
        with pytest.raises(ScheduleError):
            check_cron(cron, "UTC")


def test_fields_are_stored_apart_by_one_blank():
    """This holds whatever blanks were typed."""
    assert plain_cron("  0\t9 *  * 1\n") == "0 9 * * 1"


@given(cron=CRONS, zone=ZONES, last=MOMENTS, gap=st.timedeltas(timedelta(), timedelta(days=2)), policy=POLICIES)
def test_what_is_due_is_new_past_ordered_and_bounded(cron, zone, last, gap, policy):
    """No time fires twice, no future time fires, and no more than the policy allows."""
    due = due_times(cron, zone, last=last, now=last + gap, catch_up=policy)

    assert all(last < time <= last + gap for time in due)
    assert due == sorted(set(due))
    assert len(due) <= (MAX_CAUGHT_UP if policy == "all" else 1)


@given(cron=CRONS, zone=ZONES, last=MOMENTS, gap=st.timedeltas(timedelta(), timedelta(hours=6)))
def test_looking_often_or_once_fires_the_same(cron, zone, last, gap):
    """With ``all``, a beat that was away fires every missed time."""
    now, middle = last + gap, last + gap / 2

    early = due_times(cron, zone, last=last, now=middle, catch_up="all")
    late = due_times(cron, zone, last=max([last, *early]), now=now, catch_up="all")

    assert (early + late)[-MAX_CAUGHT_UP:] == due_times(cron, zone, last=last, now=now, catch_up="all")


def test_of_many_missed_times_one_fires_the_newest():
    """A report is wanted once, however long none was made."""
    due = due_times("0 * * * *", "UTC", last=utc("2026-01-01T00:00"), now=utc("2026-01-03T05:10"), catch_up="one")

    assert due == [utc("2026-01-03T05:00")]


@pytest.mark.parametrize(("now", "fires"), [("2026-01-01T05:00:59", True), ("2026-01-01T05:01:00", False)])
def test_skip_fires_only_what_is_less_than_a_minute_late(now, fires):
    """A reminder for five o'clock is useless at noon."""
    due = due_times("0 * * * *", "UTC", last=utc("2026-01-01T00:00"), now=utc(now), catch_up="skip")

    assert due == ([utc("2026-01-01T05:00")] if fires else [])


def test_all_stops_at_its_bound():
    """A beat that was away for a month does not flood the workers."""
    due = due_times("* * * * *", "UTC", last=utc("2026-01-01T00:00"), now=utc("2026-02-01T00:00"), catch_up="all")

    assert len(due) == MAX_CAUGHT_UP
    assert due[-1] == utc("2026-02-01T00:00")


@pytest.mark.parametrize(
    ("cron", "timezone", "message"),
    [
        ("* * * *", "UTC", r"cron must have five fields \(minute hour day month weekday\), got '\* \* \* \*'"),
        ("0 9 * * 1 *", "UTC", r"cron must have five fields \(.*\), got '0 9 \* \* 1 \*'"),
        ("0 0 9 * * 1 2026", "UTC", "cron must have five fields"),
        ("", "UTC", "cron must have five fields .*, got ''"),
        ("@daily", "UTC", r"cron must have five fields .*, got '@daily'; write '0 0 \* \* \*'"),
        ("@reboot", "UTC", "cron must have five fields .*, got '@reboot'"),
        ("0 0 * * \N{FULLWIDTH DIGIT ONE}", "UTC", "cron must have five fields"),
        ("61 * * * *", "UTC", r"cron must have five fields .* that make sense \(Bad minute\), got '61 \* \* \* \*'"),
        ("* * * * MONTAG", "UTC", r"that make sense \(Bad day-of-week\)"),
        ("0 0 30 2 *", "UTC", "that make sense"),
        ("0 0 31 2,4,6,9,11 *", "UTC", "that make sense"),
        ("0 0 31 2 */2", "UTC", "that make sense"),
        ("0 0 * * *", "", "timezone must be an IANA name such as Europe/Paris, got ''"),
        ("0 0 * * *", "Europe", "timezone must be an IANA name"),
        ("0 0 * * *", "UTC\0", "timezone must be an IANA name"),
        ("0 0 * * *", "x" * 300, "timezone must be an IANA name"),
        ("0 0 * * *", "Mars/Olympus", "timezone must be an IANA name such as Europe/Paris, got 'Mars/Olympus'"),
        ("0 0 * * *", "../../etc/passwd", "timezone must be an IANA name"),
    ],
)
def test_what_cannot_be_understood_is_refused_in_one_line(cron, timezone, message):
    """The message names the field, the rule and the value."""
    with pytest.raises(ScheduleError, match=message):
        check_cron(cron, timezone)
