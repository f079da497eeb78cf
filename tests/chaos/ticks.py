"""Find the wrong ticks of a schedule, by its cron and its catch-up policy. Pure functions.

A tick has the time at which its transaction began. The beat used this time to decide what was due, so slow commits and
races between beats need no tolerance.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from workers.runtime.beat.cron import MAX_SKIP_LATENESS, next_time

# If a beat looked and did not fire, because a row was locked or the beat died, a beat looks again within this time.
MAX_LOOK_AGAIN = timedelta(seconds=30)


class Fired(NamedTuple):
    """One tick: its time, and when it was fired."""

    scheduled_for: datetime
    fired_at: datetime


def misfired(cron: str, timezone: str, catch_up: str, ticks: Sequence[Fired], looks: Sequence[datetime]) -> list[str]:
    """Return what is wrong with the ``ticks`` of one schedule, sorted by their times.

    - Each tick is at a time of ``cron`` that was not in the future.
    - ``skip`` fires nothing late. ``skip`` and ``one`` fire no time if a newer time was due.
    - ``all`` leaves out no time. ``skip`` and ``one`` leave out no time for which a beat looked early enough.

    ``looks`` are the known times at which a beat looked, in order. Do not use this for a schedule that was changed
    during the run or that missed more than a hundred times in a row.
    """
    wrong = [f"{tick.scheduled_for}" for tick in ticks if _is_wrong(cron, timezone, catch_up, tick)]
    for before, after in pairwise(ticks):
        for passed, newer in pairwise([*_times_between(cron, timezone, before, after), after.scheduled_for]):
            if catch_up == "all" or _looked_in_time(looks, passed, newer):
                wrong.append(f"{passed} left out")
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
    """Return whether a beat looked while ``passed`` was the newest time, early enough for another look."""
    first = bisect_left(looks, passed)
    until = min(passed + MAX_SKIP_LATENESS, newer) - MAX_LOOK_AGAIN
    return first < len(looks) and looks[first] < until
