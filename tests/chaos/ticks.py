"""Which ticks of a schedule are wrong, by its cron text and its policy. Pure: what the checker read in, times out.

A tick carries the time at which its transaction began, and that is the time by which the beat decided what was due: no
tolerance is needed for late looks, slow commits or races of beats.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from workers.runtime.beat.cron import MAX_SKIP_LATENESS, next_time

# A beat that looked and did not fire, because somebody held a row or it died, looks again, or another does, by then.
LOOKED_AGAIN_WITHIN = timedelta(seconds=30)


class Fired(NamedTuple):
    """One tick: its time, and when it was fired."""

    scheduled_for: datetime
    fired_at: datetime


def misfired(cron: str, timezone: str, catch_up: str, ticks: Sequence[Fired], looks: Sequence[datetime]) -> list[str]:
    """Return what is wrong with the ``ticks`` of one schedule, which are in the order of their times.

    Each is at a time of ``cron`` that had come. ``skip`` fires nothing late, ``skip`` and ``one`` nothing that a newer
    time had overtaken, ``all`` passes nothing over; the others nothing for which a beat looked in time. ``looks`` are
    the times, in order, at which some beat is known to have looked. A schedule that was changed during the run, or
    missed more than a hundred times in a row, is none for this.
    """
    wrong = [f"{tick.scheduled_for}" for tick in ticks if _is_wrong(cron, timezone, catch_up, tick)]
    for before, after in pairwise(ticks):
        for passed, newer in pairwise([*_times_between(cron, timezone, before, after), after.scheduled_for]):
            if catch_up == "all" or _looked_in_time(looks, passed, newer):
                wrong.append(f"{passed} passed over")
    return wrong


def _is_wrong(cron: str, timezone: str, catch_up: str, tick: Fired) -> bool:
    at, fired_at = tick
    named = next_time(cron, timezone, after=at - timedelta(seconds=1)) == at
    overtaken = catch_up != "all" and next_time(cron, timezone, after=at) <= fired_at
    late = catch_up == "skip" and fired_at - at >= MAX_SKIP_LATENESS
    return not named or at > fired_at or overtaken or late


def _times_between(cron: str, timezone: str, before: Fired, after: Fired) -> Iterator[datetime]:
    at = before.scheduled_for
    while (at := next_time(cron, timezone, after=at)) < after.scheduled_for:
        yield at


def _looked_in_time(looks: Sequence[datetime], passed: datetime, newer: datetime) -> bool:
    """Tell whether a beat looked while ``passed`` was the newest time, and with time left to look again."""
    first = bisect_left(looks, passed)
    until = min(passed + MAX_SKIP_LATENESS, newer) - LOOKED_AGAIN_WITHIN
    return first < len(looks) and looks[first] < until
