"""When a schedule is due. Pure: it depends on the cron, the time zone, the last fired time and the current time.

When a zone changes its clock, there are two cases. If the cron names its minute and hour, it means a time of day: a
time that the clock skips fires when the clock changes; a time that the clock shows twice fires the first time. If the
minute or the hour begins with ``*``, the cron means an interval: it fires whenever the local clock shows a matching
time.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain, dropwhile, islice, pairwise, repeat, takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from workers.runtime.refusals import Problem, Refusal, quoted

# `all` fires at most this many missed times at once, however long no beat ran.
MAX_CAUGHT_UP = 100
# `skip` fires a time only if it is less than this late.
MAX_SKIP_LATENESS = timedelta(minutes=1)

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
# How much time one step searches. The first steps are short, because a frequent cron matches there.
_WINDOWS = (timedelta(minutes=10), timedelta(hours=1))
_LARGEST_WINDOW = timedelta(hours=6)
# No zone is further from UTC than this, also during a clock change.
_MAX_OFFSET = timedelta(hours=26)
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
# Clock changes are reported for this long into the future.
CLOCK_CHANGES_AHEAD = timedelta(days=400)


class ScheduleError(Refusal, ValueError):
    """A schedule is invalid. The message names the field, the rule and the value."""


def plain_cron(cron: str) -> str:
    """Return ``cron`` as it is stored: its fields separated by one blank. Raise ScheduleError if they are not five."""
    plain = " ".join(cron.split())
    if longhand := _SHORTHANDS.get(plain.lower()):
        raise ScheduleError(Problem("cron", f"must have {FIELDS}", quoted(cron), f"write {longhand!r}"))
    if _FIVE_FIELDS.fullmatch(plain) is None:
        raise ScheduleError(Problem("cron", f"must have {FIELDS}", quoted(cron)))
    return plain


def check_cron(cron: str, timezone: str) -> None:
    """Raise ScheduleError if ``cron`` or ``timezone`` is invalid, or if no time ever matches."""
    next_time(cron, timezone, after=datetime(2026, 1, 1, tzinfo=UTC))


def next_time(cron: str, timezone: str, *, after: datetime) -> datetime:
    """Return the first time of ``cron`` after ``after``, in UTC."""
    for time in _Times(cron, timezone).forwards(after):
        return time
    raise ScheduleError(Problem("cron", "must name a time that exists", quoted(cron)))


def due_times(cron: str, timezone: str, *, last: datetime, now: datetime, catch_up: str) -> list[datetime]:
    """Return the times to fire now, oldest first.

    ``last`` is the newest time already fired, or the schedule's creation or change. If several times were missed,
    ``all`` fires each of them (at most the newest 100), ``one`` fires the newest, and ``skip`` fires the newest if it
    is less than a minute old. No more times than that are computed, however long no beat ran.
    """
    newest_first = _Times(cron, timezone).backwards(now)
    missed = takewhile(lambda time: time > last, dropwhile(lambda time: time > now, newest_first))
    match catch_up:
        case "all":
            return [*islice(missed, MAX_CAUGHT_UP)][::-1]
        case "one":
            return [*islice(missed, 1)]
        case _:
            return [time for time in islice(missed, 1) if now - time < MAX_SKIP_LATENESS]


def clock_changes(cron: str, timezone: str, *, after: datetime) -> list[str]:
    """Describe which times of the next 400 days the zone's clock skips or shows twice, and what fires then."""
    times = _Times(cron, timezone)
    jumps = times.jumps(after, after + CLOCK_CHANGES_AHEAD)
    return [effect for jump in jumps if (effect := times.describe_jump(*jump))]


@lru_cache(maxsize=1_000)
def _zone(timezone: str) -> ZoneInfo:
    # ZoneInfo raises various errors for the name of a folder, of another file, or with a NUL.
    try:
        return ZoneInfo(timezone)
    except (LookupError, ValueError, OSError, TypeError):
        raise ScheduleError(
            Problem("timezone", "must be an IANA name such as Europe/Paris", quoted(timezone))
        ) from None


class _Times:
    """The times of one cron in one zone, in UTC: forwards or backwards from a moment, the same times in both cases.

    The library iterates only local times without a zone, because with a zone it has two errors: changes of half an hour
    give wrong times, and a change that is not at the full hour gives an endless loop.
    """

    def __init__(self, cron: str, timezone: str) -> None:
        self._cron = plain_cron(cron)
        self._timezone = timezone
        self._zone = _zone(timezone)
        minute, hour, *_ = self._cron.split()
        self._is_interval = minute.startswith("*") or hour.startswith("*")
        self._is_hourly = hour.startswith("*")
        self._local_times(datetime(2026, 1, 1))  # noqa: DTZ001 - a local time; raises if the cron makes no sense

    def _local_times(self, local: datetime, *, backwards: bool = False) -> Iterator[datetime]:
        """Return the local times of the cron after ``local``, or before it."""
        try:
            return iter(CronSim(self._cron, local, reverse=backwards))
        except CronSimError as error:
            raise ScheduleError(
                Problem("cron", f"must have {FIELDS} that make sense ({error})", quoted(self._cron))
            ) from None

    def forwards(self, after: datetime) -> Iterator[datetime]:
        """Yield the times after ``after``, oldest first."""
        start, windows = after, chain(_WINDOWS, repeat(_LARGEST_WINDOW))
        while (following := next(self._local_times(start.replace(tzinfo=None) - _MAX_OFFSET), None)) is not None:
            start = max(start, following.replace(tzinfo=UTC) - _MAX_OFFSET)  # no time comes before
            window = next(windows)
            yield from self._within(start, start + window)
            start += window

    def backwards(self, until: datetime) -> Iterator[datetime]:
        """Yield the times up to ``until``, newest first."""
        end, windows = until, chain(_WINDOWS, repeat(_LARGEST_WINDOW))
        while True:
            previous = next(self._local_times(end.replace(tzinfo=None) + _MAX_OFFSET, backwards=True), None)
            if previous is None:
                return
            end = min(end, previous.replace(tzinfo=UTC) + _MAX_OFFSET)
            window = next(windows)
            yield from reversed(self._within(end - window, end))
            end -= window

    def _within(self, start: datetime, end: datetime) -> list[datetime]:
        """Return the times after ``start`` up to ``end``, in order."""
        offsets = [self._offset(moment) for moment in (start - _DAY, start, end, end + _DAY)]
        low = start.replace(tzinfo=None) + min(offsets) - _SECOND
        high = end.replace(tzinfo=None) + max(offsets)
        local_times = takewhile(lambda local: local <= high, self._local_times(low))
        return sorted({time for local in local_times for time in self._moments(local) if start < time <= end})

    def _moments(self, local: datetime) -> Iterable[datetime]:
        """Return the moments at which this local time fires."""
        first, second = (local.replace(tzinfo=self._zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        if first == second:
            return (first,)
        if first < second:  # the clock shows it twice
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
        """Yield each change of the zone's clock: the local times right before and right after it."""
        days = (after.replace(microsecond=0) + n * _DAY for n in range((until - after) // _DAY + 1))
        for day, next_day in pairwise(days):
            if self._offset(day) != self._offset(next_day):
                jump = self._jump(day, next_day)
                local = jump.replace(tzinfo=None)
                yield local + self._offset(day), local + self._offset(next_day)

    def describe_jump(self, before: datetime, after: datetime) -> str | None:
        """Describe the effect on this cron of a clock change from ``before`` to ``after``; None if there is none."""
        low, high = sorted((before, after))
        local = next(self._local_times(low - _SECOND), None)
        if local is None or local >= high or self._is_hourly:
            return None
        if after > before:
            what, then = "does not exist", "it does not fire" if self._is_interval else f"it fires at {after:%H:%M}"
        else:
            what, then = "comes twice", "it fires twice" if self._is_interval else "it fires at the first"
        return f"{local:%Y-%m-%d %H:%M} {what} in {self._timezone}: {then}"
