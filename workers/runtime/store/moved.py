"""Read what others than workers did to jobs."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from psycopg.rows import class_row

from workers.runtime.database import Raw

# How far back the first look goes.
FIRST_LOOK = "1 minute"
MOST_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedByOthers:
    """A transition of an existing job that no worker made; whether another has followed it since."""

    job_id: UUID
    stage: str
    version_to: int
    old_state: str
    new_state: str
    change_action: str | None
    change_reason: str | None
    created_at: datetime
    is_newest: bool


class Seen(NamedTuple):
    """The transitions, and where the look stood: its time, the oldest transaction that ran, and its own."""

    rows: list[MovedByOthers]
    at: datetime
    oldest_transaction: int
    own_transaction: int


async def moved_by_others(conn: Raw, *, since: datetime | None) -> Seen:
    """Return what others than workers did to jobs since then, in order; at most 10,000, the newest."""
    async with conn.transaction():
        # One snapshot for both questions, taken after the time that is told. A number of its own, for a snapshot does
        # not tell which transactions have begun: only which have ended.
        await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        stood = await conn.execute(
            "SELECT statement_timestamp(), pg_snapshot_xmin(pg_current_snapshot())::text::bigint, "
            "pg_current_xact_id()::text::bigint"
        )
        at, oldest, own = (await stood.fetchall())[0]
        cursor = conn.cursor(row_factory=class_row(MovedByOthers))
        await cursor.execute(
            """SELECT * FROM (
                 SELECT t.job_id, t.stage, t.version_to, t.old_state, t.new_state, t.change_action, t.change_reason,
                        t.created_at,
                        NOT EXISTS (SELECT FROM runtime.transitions AS n JOIN runtime.stages AS s ON s.name = n.stage
                                     WHERE n.job_id = t.job_id AND n.version_to > t.version_to
                                       AND s.table_name = (SELECT table_name FROM runtime.stages WHERE name = t.stage)
                                   ) AS is_newest
                   FROM runtime.transitions AS t
                  WHERE t.old_state IS NOT NULL AND coalesce(t.changed_by, '') NOT LIKE 'worker:%%'
                    AND t.created_at >= coalesce(%(since)s, now() - %(first)s::interval)
                    AND t.created_at < now() + interval '1 day'  -- not by a clock: written by hand, infinity perhaps
                  ORDER BY t.created_at DESC LIMIT %(most)s) AS newest
                ORDER BY created_at, version_to""",
            {"since": since, "first": FIRST_LOOK, "most": MOST_AT_ONCE},
        )
        return Seen(await cursor.fetchall(), at, oldest, own)
