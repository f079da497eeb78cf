"""The rule about ticks, case by case: allowed ticks pass, forbidden ones are named."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.chaos.ticks import Fired, misfired

MINUTELY, HOURLY = "* * * * *", "0 * * * *"


def at(minute: int, second: float = 0.0) -> datetime:
    return datetime(2026, 1, 1, 12, tzinfo=UTC) + timedelta(minutes=minute, seconds=second)


def fired(*ticks: tuple[int, float]) -> list[Fired]:
    """Return a tick of each minute, with the seconds until it fired."""
    return [Fired(at(minute), at(minute, late)) for minute, late in ticks]


@pytest.mark.parametrize("catch_up", ["skip", "one", "all"])
@pytest.mark.parametrize("ticks", [[], fired((0, 0.0)), fired((0, 0.4), (1, 59.9), (2, 12.0), (3, 0.0))])
def test_ticks_that_are_fired_before_the_next_are_right(catch_up: str, ticks: list[Fired]) -> None:
    """Some seconds of delay do not count as catching up."""
    assert misfired(MINUTELY, "UTC", catch_up, ticks, [tick.fired_at for tick in ticks]) == []


@pytest.mark.parametrize(("catch_up", "wrong"), [("skip", 2), ("one", 2), ("all", 0)])
def test_each_of_several_missed_ticks_is_fired_by_all_alone(catch_up: str, wrong: int) -> None:
    """Three minutes were missed, and one look of a beat fired all of them."""
    ticks = fired((0, 1.0), (1, 122.0), (2, 62.0), (3, 2.0))

    assert len(misfired(MINUTELY, "UTC", catch_up, ticks, [])) == wrong


@pytest.mark.parametrize(("catch_up", "wrong"), [("skip", 0), ("one", 0), ("all", 2)])
def test_the_newest_of_several_missed_ticks_is_fired_by_one_and_by_a_punctual_skip(catch_up: str, wrong: int) -> None:
    """No beat looked while the other times were new: only `all` must fire them."""
    ticks = fired((0, 1.0), (3, 2.0))

    assert len(misfired(MINUTELY, "UTC", catch_up, ticks, [at(0, 1.0), at(3, 2.0)])) == wrong


@pytest.mark.parametrize(("late", "wrong"), [(59.9, 0), (60.0, 1)])
def test_skip_fires_nothing_late_though_nothing_newer_is_due(late: float, wrong: int) -> None:
    """The tick is late, also if the next time is an hour away."""
    assert len(misfired(HOURLY, "UTC", "skip", fired((0, late)), [])) == wrong
    assert misfired(HOURLY, "UTC", "one", fired((0, late)), []) == []


@pytest.mark.parametrize("catch_up", ["skip", "one"])
@pytest.mark.parametrize(("look", "wrong"), [(at(0, 59.0), 0), (at(1), 1), (at(1, 29.9), 1), (at(1, 31.0), 0)])
def test_a_time_for_which_a_beat_looked_is_fired(catch_up: str, look: datetime, wrong: int) -> None:
    """If the beat looked too late for a second look, the time may be left out."""
    ticks = fired((0, 1.0), (2, 1.0))

    assert len(misfired(MINUTELY, "UTC", catch_up, ticks, [look])) == wrong


@pytest.mark.parametrize("catch_up", ["skip", "one", "all"])
@pytest.mark.parametrize("tick", [Fired(at(0, 7.0), at(0, 8.0)), Fired(at(1), at(0, 59.0))])
def test_a_tick_at_no_time_or_before_its_time_is_wrong(catch_up: str, tick: Fired) -> None:
    """The cron names whole minutes, and a time in the future is not due."""
    assert misfired(MINUTELY, "UTC", catch_up, [tick], []) == [str(tick.scheduled_for)]
