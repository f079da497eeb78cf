"""Give a role a wrong clock or little memory, before it imports anything that depends on them."""

import datetime as dt
import resource
import time
from typing import Any

TrueDatetime = dt.datetime


def arrange(options: dict[str, Any]) -> None:
    """Remove the options of this module from ``options`` and apply them.

    ``clock_offset_seconds`` shifts the wall clock of this process: ``time.time`` and the ``now``, ``utcnow`` and
    ``today`` of ``datetime``. The monotonic clock and the clocks of other processes stay right. ``memory_megabytes``
    limits the process's address space.
    """
    if offset := options.pop("clock_offset_seconds", 0):
        _shift_clock(dt.timedelta(seconds=offset))
    if megabytes := options.pop("memory_megabytes", 0):
        limit = megabytes * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core dump of an intended crash


class AnyDatetime(type):
    """Accepts every datetime as an instance, because C code still makes real ones."""

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
    dt.datetime = ShiftedDatetime  # type: ignore[misc]  # replaced on purpose
