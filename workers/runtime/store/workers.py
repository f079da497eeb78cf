"""The worker processes in the database, as people see them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.rows import class_row

from workers.runtime.database import Raw


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """One worker process; ``state`` is running, draining, or silent (its lease has ended).

    ``running`` is the number of its jobs at its last heartbeat. ``provider`` is who answers its language model calls;
    None if the process has not written it yet or is of an older release.
    """

    id: UUID
    name: str
    state: str
    queues: Sequence[str]
    slots: int
    running: int
    lease_seconds: float
    lease_until: datetime
    started_at: datetime
    heartbeat_at: datetime
    silent_for: timedelta
    draining_at: datetime | None
    version: str | None
    provider: dict[str, Any] | None


async def list_workers(conn: Raw) -> list[WorkerView]:
    """Return every worker that has a row, by name. The row of a silent worker stays for a day."""
    cursor = conn.cursor(row_factory=class_row(WorkerView))
    await cursor.execute(
        """SELECT id, name, queues, slots, running, lease_seconds, lease_until, started_at, heartbeat_at, draining_at,
                  now() - heartbeat_at AS silent_for, version, provider,
                  CASE WHEN lease_until < now() THEN 'silent' WHEN draining_at IS NOT NULL THEN 'draining'
                       ELSE 'running' END AS state
             FROM runtime.workers
            CROSS JOIN LATERAL (
              SELECT heartbeat_at
                     + make_interval(secs => greatest(least(lease_seconds, 1e9), 0)) AS lease_until) AS lease
            ORDER BY name, id"""
    )
    return await cursor.fetchall()
