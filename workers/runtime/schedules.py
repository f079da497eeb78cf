"""When a schedule is due. Pure: cron text, a time zone, what fired last, and the time now."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import dropwhile, islice, takewhile
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

# `all` never fires more than this many missed times at once, however long no beat ran.
MOST_CAUGHT_UP = 100
# What `skip` still takes for punctual.
PUNCTUAL = timedelta(minutes=1)


class ScheduleError(ValueError):
    """A schedule cannot be understood; the message names the field, the rule and the value."""


def check(cron: str, timezone: str) -> None:
    """Raise ScheduleError unless ``cron`` and ``timezone`` can be understood."""
    next_time(cron, timezone, after=datetime(2026, 1, 1, tzinfo=UTC))


def next_time(cron: str, timezone: str, *, after: datetime) -> datetime:
    """Return the first time of ``cron`` after ``after``, in UTC. A wall-clock time that DST skips fires after it."""
    return next(_times(cron, timezone, after))


def _times(cron: str, timezone: str, start: datetime, *, backwards: bool = False) -> Iterator[datetime]:
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError):
        raise ScheduleError(f"timezone must be an IANA name such as Europe/Paris, got {timezone!r}") from None
    try:
        times = CronSim(cron, start.astimezone(zone), reverse=backwards)
    except CronSimError as error:
        raise ScheduleError(f"cron must have five fields that make sense ({error}), got {cron!r}") from None
    for time in times:
        yield time.astimezone(UTC)


def due_times(cron: str, timezone: str, *, last: datetime, now: datetime, catch_up: str) -> list[datetime]:
    """Return the times to fire now, oldest first.

    ``last`` is the newest time already fired, or the schedule's creation. Of several missed times, ``all`` fires
    each (the newest 100), ``one`` the newest, ``skip`` the newest only if it is less than a minute old. However long
    no beat ran, no more than that is looked at.
    """
    newest_first = _times(cron, timezone, now + timedelta(minutes=1), backwards=True)
    missed = takewhile(lambda time: time > last, dropwhile(lambda time: time > now, newest_first))
    match catch_up:
        case "all":
            return [*islice(missed, MOST_CAUGHT_UP)][::-1]
        case "one":
            return [*islice(missed, 1)]
        case _:
            return [time for time in islice(missed, 1) if now - time < PUNCTUAL]
