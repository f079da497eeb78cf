"""When a schedule is due. Pure: cron text, a time zone, what fired last, and the time now.

Where a zone changes its clock, a cron that names its minute and hour means a time of the day: a time that the clock
skips fires as the clock jumps, one that comes twice fires at the first. A cron whose minute or hour begins with ``*``
means an interval: it fires at each moment at which the wall shows a time of its own.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain, dropwhile, islice, pairwise, repeat, takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from workers.runtime.refusals import Problem, Refusal, quoted

# `all` never fires more than this many missed times at once, however long no beat ran.
MOST_CAUGHT_UP = 100
# What `skip` still takes for punctual.
PUNCTUAL = timedelta(minutes=1)

FIELDS = "five fields (minute hour day month weekday)"
_FIVE_FIELDS = re.compile(r"[0-9A-Za-z*,/#-]+( [0-9A-Za-z*,/#-]+){4}")
_SHORTHANDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
# How much time is looked through at once: little at first, for what comes often is found there.
_WINDOWS = (timedelta(minutes=10), timedelta(hours=1))
_LARGEST_WINDOW = timedelta(hours=6)
# No zone is further from UTC than this, clock changes included.
_FURTHEST = timedelta(hours=26)
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
# How far ahead clock changes are told.
TOLD_AHEAD = timedelta(days=400)


class ScheduleError(Refusal, ValueError):
    """A schedule cannot be understood; the message names the field, the rule and the value."""


def plain_cron(cron: str) -> str:
    """Return ``cron`` as it is stored: its fields apart by one blank. Raise ScheduleError if they are not five."""
    plain = " ".join(cron.split())
    if longhand := _SHORTHANDS.get(plain.lower()):
        raise ScheduleError(Problem("cron", f"must have {FIELDS}", quoted(cron), f"write {longhand!r}"))
    if _FIVE_FIELDS.fullmatch(plain) is None:
        raise ScheduleError(Problem("cron", f"must have {FIELDS}", quoted(cron)))
    return plain


def check(cron: str, timezone: str) -> None:
    """Raise ScheduleError unless ``cron`` and ``timezone`` can be understood and some time comes."""
    next_time(cron, timezone, after=datetime(2026, 1, 1, tzinfo=UTC))


def next_time(cron: str, timezone: str, *, after: datetime) -> datetime:
    """Return the first time of ``cron`` after ``after``, in UTC."""
    for time in _Times(cron, timezone).forwards(after):
        return time
    raise ScheduleError(Problem("cron", "must name a time that comes", quoted(cron)))


def due_times(cron: str, timezone: str, *, last: datetime, now: datetime, catch_up: str) -> list[datetime]:
    """Return the times to fire now, oldest first.

    ``last`` is the newest time already fired, or the schedule's creation or change. Of several missed times, ``all``
    fires each (the newest 100), ``one`` the newest, ``skip`` the newest only if it is less than a minute old. However
    long no beat ran, no more than that is looked at.
    """
    newest_first = _Times(cron, timezone).backwards(now)
    missed = takewhile(lambda time: time > last, dropwhile(lambda time: time > now, newest_first))
    match catch_up:
        case "all":
            return [*islice(missed, MOST_CAUGHT_UP)][::-1]
        case "one":
            return [*islice(missed, 1)]
        case _:
            return [time for time in islice(missed, 1) if now - time < PUNCTUAL]


def clock_changes(cron: str, timezone: str, *, after: datetime) -> list[str]:
    """Say which times of the next 400 days the zone's clock skips or shows twice, and what is fired then."""
    times = _Times(cron, timezone)
    return [told for jump in times.jumps(after, after + TOLD_AHEAD) if (told := times.told(*jump))]


@lru_cache(maxsize=1_000)
def _zone(timezone: str) -> ZoneInfo:
    # A name of a folder, of a file beside the zones, or with a NUL raises errors of every kind.
    try:
        return ZoneInfo(timezone)
    except (LookupError, ValueError, OSError, TypeError):
        raise ScheduleError(
            Problem("timezone", "must be an IANA name such as Europe/Paris", quoted(timezone))
        ) from None


class _Times:
    """The times of one cron in one zone, in UTC: forwards or backwards from a moment, the same ones either way.

    The library iterates what a wall without clock changes would show; within a zone it is wrong about changes of half
    an hour, and never ends where a change is not at the full hour.
    """

    def __init__(self, cron: str, timezone: str) -> None:
        self._cron = plain_cron(cron)
        self._timezone = timezone
        self._zone = _zone(timezone)
        minute, hour, *_ = self._cron.split()
        self._is_interval = minute.startswith("*") or hour.startswith("*")
        self._is_hourly = hour.startswith("*")
        self._walls(datetime(2026, 1, 1))  # noqa: DTZ001 - a wall's time; raises where the cron makes no sense

    def _walls(self, wall: datetime, *, backwards: bool = False) -> Iterator[datetime]:
        """Return the wall's times after ``wall``, or before it."""
        try:
            return iter(CronSim(self._cron, wall, reverse=backwards))
        except CronSimError as error:
            raise ScheduleError(
                Problem("cron", f"must have {FIELDS} that make sense ({error})", quoted(self._cron))
            ) from None

    def forwards(self, after: datetime) -> Iterator[datetime]:
        """Yield the times after ``after``, oldest first."""
        start, windows = after, chain(_WINDOWS, repeat(_LARGEST_WINDOW))
        while (following := next(self._walls(start.replace(tzinfo=None) - _FURTHEST), None)) is not None:
            start = max(start, following.replace(tzinfo=UTC) - _FURTHEST)  # nothing comes before
            window = next(windows)
            yield from self._within(start, start + window)
            start += window

    def backwards(self, until: datetime) -> Iterator[datetime]:
        """Yield the times up to ``until``, newest first."""
        end, windows = until, chain(_WINDOWS, repeat(_LARGEST_WINDOW))
        while (previous := next(self._walls(end.replace(tzinfo=None) + _FURTHEST, backwards=True), None)) is not None:
            end = min(end, previous.replace(tzinfo=UTC) + _FURTHEST)
            window = next(windows)
            yield from reversed(self._within(end - window, end))
            end -= window

    def _within(self, start: datetime, end: datetime) -> list[datetime]:
        """Return the times after ``start`` up to ``end``, in order."""
        offsets = [self._offset(moment) for moment in (start - _DAY, start, end, end + _DAY)]
        low = start.replace(tzinfo=None) + min(offsets) - _SECOND
        high = end.replace(tzinfo=None) + max(offsets)
        walls = takewhile(lambda wall: wall <= high, self._walls(low))
        return sorted({time for wall in walls for time in self._moments(wall) if start < time <= end})

    def _moments(self, wall: datetime) -> Iterable[datetime]:
        """Return when this time of the wall fires."""
        first, second = (wall.replace(tzinfo=self._zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        if first == second:
            return (first,)
        if first < second:  # it comes twice
            return (first, second) if self._is_interval else (first,)
        return () if self._is_interval else (self._jump(second, first),)

    def _offset(self, moment: datetime) -> timedelta:
        return moment.astimezone(self._zone).utcoffset() or timedelta()

    def _jump(self, before: datetime, after: datetime) -> datetime:
        """Return the moment between the two at which the zone's clock changes."""
        old = self._offset(before)
        while after - before > _SECOND:
            middle = before + (after - before) // 2
            if self._offset(middle) == old:
                before = middle
            else:
                after = middle
        return after.replace(microsecond=0)

    def jumps(self, after: datetime, until: datetime) -> Iterator[tuple[datetime, datetime]]:
        """Yield every change of the zone's clock as what the wall shows right before and right after it."""
        days = (after.replace(microsecond=0) + n * _DAY for n in range((until - after) // _DAY + 1))
        for day, next_day in pairwise(days):
            if self._offset(day) != self._offset(next_day):
                jump = self._jump(day, next_day)
                wall = jump.replace(tzinfo=None)
                yield wall + self._offset(day), wall + self._offset(next_day)

    def told(self, before: datetime, after: datetime) -> str | None:
        """Say what a change of the wall from ``before`` to ``after`` does to this cron, if anything."""
        low, high = sorted((before, after))
        wall = next(self._walls(low - _SECOND), None)
        if wall is None or wall >= high or self._is_hourly:
            return None
        if after > before:
            what, then = "does not exist", "it does not fire" if self._is_interval else f"it fires at {after:%H:%M}"
        else:
            what, then = "comes twice", "it fires twice" if self._is_interval else "it fires at the first"
        return f"{wall:%Y-%m-%d %H:%M} {what} in {self._timezone}: {then}"
