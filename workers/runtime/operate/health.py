"""Whether time is kept: the schedules that should have fired and did not, those that cannot, and who fired last."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg.rows import dict_row

from workers.runtime.beat.cron import ScheduleError, due_times
from workers.runtime.database import Raw

# A beat looks every second; one that is this late does not look.
LATE = timedelta(seconds=90)


@dataclass(frozen=True, slots=True, kw_only=True)
class BeatHealth:
    """What the schedules say of beat: those ``overdue``, with the time that was missed, those ``refused``, and why."""

    enabled: int
    overdue: Sequence[tuple[str, datetime]]
    refused: Sequence[tuple[str, str]]
    last_fired_at: datetime | None
    last_fired_by: str | None
    now: datetime


async def beat_health(conn: Raw) -> BeatHealth:
    """Hold every enabled schedule against the database's time."""
    cursor = conn.cursor(row_factory=dict_row)
    # A time of infinity, written in psql, is none that a beat reckons with.
    await cursor.execute(
        """SELECT name, cron, timezone, now() AS now,
                  greatest(CASE WHEN isfinite(last_scheduled_for) THEN last_scheduled_for END,
                           CASE WHEN isfinite(created_at) THEN created_at END,
                           CASE WHEN isfinite(updated_at) THEN updated_at END) AS since
             FROM runtime.schedules WHERE enabled ORDER BY name"""
    )
    rows = await cursor.fetchall()
    overdue, refused = [], []
    for row in rows:
        try:
            missed = due_times(
                row["cron"], row["timezone"], last=row["since"] or row["now"], now=row["now"] - LATE, catch_up="one"
            )
        except ScheduleError as error:
            refused.append((row["name"], str(error)))
        else:
            overdue += [(row["name"], time) for time in missed]
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(
        """SELECT now() AS now, last.fired_at, last.fired_by FROM (SELECT) AS one LEFT JOIN LATERAL (
             SELECT fired_at, fired_by FROM runtime.ticks WHERE isfinite(fired_at)
              ORDER BY fired_at DESC LIMIT 1) AS last ON true"""
    )
    last = await cursor.fetchone()
    assert last is not None
    return BeatHealth(
        enabled=len(rows),
        overdue=overdue,
        refused=refused,
        last_fired_at=last["fired_at"],
        last_fired_by=last["fired_by"],
        now=last["now"],
    )
