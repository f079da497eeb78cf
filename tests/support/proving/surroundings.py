"""What a role is made to live with, before it imports anything that would notice: a wrong clock, little memory."""

import datetime as dt
import resource
import time
from typing import Any

TrueDatetime = dt.datetime


def arrange(options: dict[str, Any]) -> None:
    """Take what is ours out of ``options`` and put it in force.

    ``clock_offset_seconds`` shifts what this process takes for the time of day: ``time.time`` and the ``now``,
    ``utcnow`` and ``today`` of ``datetime``. The monotonic clock and everyone else's clocks stay right.
    ``memory_megabytes`` bounds its address space.
    """
    if offset := options.pop("clock_offset_seconds", 0):
        _shift_clock(dt.timedelta(seconds=offset))
    if megabytes := options.pop("memory_megabytes", 0):
        limit = megabytes * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash on purpose leaves nothing behind


class AnyDatetime(type):
    """Takes every datetime for one of ours: C code goes on making the real ones."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, TrueDatetime)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, TrueDatetime)


def _shift_clock(offset: dt.timedelta) -> None:
    true_time = time.time

    class ShiftedDatetime(TrueDatetime, metaclass=AnyDatetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            return TrueDatetime.now(tz) + offset

        @classmethod
        def utcnow(cls) -> Any:
            return TrueDatetime.now(dt.UTC).replace(tzinfo=None) + offset

        @classmethod
        def today(cls) -> Any:
            return TrueDatetime.now() + offset

    time.time = lambda: true_time() + offset.total_seconds()
    dt.datetime = ShiftedDatetime  # type: ignore[misc]  # that is the point
