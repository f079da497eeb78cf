"""The health of the system: its dispatcher, its schedules, its logins."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from workers.runtime.beat.cron import ScheduleError, due_times
from workers.runtime.database import Raw
from workers.runtime.store import health as store
from workers.runtime.store.health import (
    ConnectedLogin,
    count_owners,
    gateway_inherits,
    is_strict,
    list_connected_logins,
    notice_queue_usage,
)
from workers.runtime.store.read import count_slots_by_queue, read_leader_silence

__all__ = [
    "ConnectedLogin",
    "count_owners",
    "count_slots_by_queue",
    "gateway_inherits",
    "is_strict",
    "list_connected_logins",
    "notice_queue_usage",
    "read_leader_silence",
]

# Beat checks the schedules every second. If a schedule is this late, no beat works.
LATE_AFTER = timedelta(seconds=90)
# A leading dispatcher writes a sign of life every second or two. If it is silent for longer, none leads.
LEADER_SILENT_AFTER = timedelta(seconds=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class BeatHealth:
    """The health of beat, by its schedules: ``overdue`` with the missed time, ``refused`` with the reason."""

    enabled: int
    overdue: Sequence[tuple[str, datetime]]
    refused: Sequence[tuple[str, str]]
    last_fired_at: datetime | None
    last_fired_by: str | None
    now: datetime


async def beat_health(conn: Raw) -> BeatHealth:
    """Check every enabled schedule against the database's time."""
    rows = await store.list_enabled_schedules(conn)
    overdue, refused = [], []
    for row in rows:
        try:
            missed = due_times(
                row["cron"],
                row["timezone"],
                last=row["since"] or row["now"],
                now=row["now"] - LATE_AFTER,
                catch_up="one",
            )
        except ScheduleError as error:
            refused.append((row["name"], str(error)))
        else:
            overdue += [(row["name"], time) for time in missed]
    last = await store.read_last_tick(conn)
    return BeatHealth(
        enabled=len(rows),
        overdue=overdue,
        refused=refused,
        last_fired_at=last.fired_at,
        last_fired_by=last.fired_by,
        now=last.now,
    )
