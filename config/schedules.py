"""The schedules of a new installation. They are inserted as rows once; operators may change them afterwards."""

from typing import NamedTuple


class DefaultSchedule(NamedTuple):
    """A cron row that runs one of the kernel's maintenance actions."""

    name: str
    action: str
    cron: str


DEFAULT_SCHEDULES = (
    DefaultSchedule("maintenance.prune", "prune", "*/10 * * * *"),
    DefaultSchedule("maintenance.expire", "expire", "*/10 * * * *"),
    DefaultSchedule("maintenance.expire_waits", "expire_waits", "* * * * *"),
    DefaultSchedule("maintenance.partitions", "partitions", "15 3 * * *"),
    DefaultSchedule("maintenance.forget_workers", "forget_workers", "30 * * * *"),
    DefaultSchedule("maintenance.orphan_calls", "orphan_calls", "* * * * *"),
)
