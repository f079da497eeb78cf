"""Read the transitions that were not made by workers: by people, services and the dispatcher."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from psycopg.rows import class_row

from workers.runtime.database import Raw

# The first read goes back this far.
FIRST_READ_SPAN = "1 minute"
MAX_TRANSITIONS_READ = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedByOthers:
    """A transition of an existing job that no worker made, and whether it is the job's newest."""

    job_id: UUID
    stage: str
    version_to: int
    old_state: str
    new_state: str
    change_action: str | None
    change_reason: str | None
    created_at: datetime
    is_newest: bool


class MovesRead(NamedTuple):
    """The transitions, the time of the read, the oldest transaction that was running then, and the reading one."""

    rows: list[MovedByOthers]
    at: datetime
    oldest_transaction: int
    own_transaction: int


async def read_moved_by_others(conn: Raw, *, since: datetime | None) -> MovesRead:
    """Return the transitions that were not made by workers since then, in order; at most 10,000, the newest."""
    async with conn.transaction():
        # Both statements use one snapshot, which is taken after the returned time. The transaction needs an id of its
        # own, because a snapshot shows which transactions have ended, but not which have begun.
        await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        position = await conn.execute(
            "SELECT statement_timestamp(), pg_snapshot_xmin(pg_current_snapshot())::text::bigint, "
            "pg_current_xact_id()::text::bigint"
        )
        at, oldest, own = (await position.fetchall())[0]
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
                    AND t.created_at < now() + interval '1 day'  -- a later time was written by hand, perhaps infinity
                  ORDER BY t.created_at DESC LIMIT %(most)s) AS newest
                ORDER BY created_at, version_to""",
            {"since": since, "first": FIRST_READ_SPAN, "most": MAX_TRANSITIONS_READ},
        )
        return MovesRead(await cursor.fetchall(), at, oldest, own)
