"""Worker processes and the leading dispatcher, as rows: who lives, who leads, what each stage may use."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from workers.runtime.database import Raw
from workers.runtime.registry import Stage

LEADER_LOCK = 0x6772_6973_7401


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """What a worker process says of itself."""

    id: UUID
    name: str
    queues: tuple[str, ...]
    slots: int
    lease_seconds: float
    version: str | None = None


async def beat_heart(
    conn: Raw, worker: WorkerRow, *, running: int, provider: Mapping[str, Any] | None = None
) -> datetime:
    """Show that ``worker`` lives: its one row is written or renewed, and so is every lease it holds.

    ``provider`` is who answers its language model calls, None as long as nothing is known. Returns the database's time.
    """
    cursor = await conn.execute(
        """INSERT INTO runtime.workers (id, name, queues, slots, running, lease_seconds, version, provider)
           VALUES (%(id)s, %(name)s, %(queues)s, %(slots)s, %(running)s, %(lease)s, %(version)s, %(provider)s)
           ON CONFLICT (id) DO UPDATE SET heartbeat_at = now(), running = excluded.running,
                                          provider = coalesce(excluded.provider, workers.provider)
           RETURNING heartbeat_at""",
        {
            "version": worker.version,
            "provider": None if provider is None else Jsonb(provider),
            "id": worker.id,
            "name": worker.name,
            "queues": list(worker.queues),
            "slots": worker.slots,
            "running": running,
            "lease": worker.lease_seconds,
        },
    )
    row = await cursor.fetchone()
    assert row is not None
    now: datetime = row[0]
    return now


async def mark_draining(conn: Raw, worker: UUID) -> None:
    """Say that ``worker`` takes no more jobs."""
    await conn.execute("UPDATE runtime.workers SET draining_at = now() WHERE id = %(id)s", {"id": worker})


async def remove_worker(conn: Raw, worker: UUID) -> None:
    """Forget a worker that stopped and holds nothing."""
    await conn.execute("DELETE FROM runtime.workers WHERE id = %(id)s", {"id": worker})


async def forget_silent_workers(conn: Raw) -> int:
    """Delete the rows of workers silent for a day; return how many. Their jobs were rescued long ago."""
    cursor = await conn.execute("DELETE FROM runtime.workers WHERE heartbeat_at < now() - interval '1 day'")
    return cursor.rowcount


async def try_to_lead(conn: Raw, *, name: str) -> bool:
    """Take the leader's lock if it is free; it lasts as long as this session."""
    cursor = await conn.execute("SELECT pg_try_advisory_lock(%(key)s)", {"key": LEADER_LOCK})
    row = await cursor.fetchone()
    if not (row and row[0]):
        return False
    await conn.execute(
        """INSERT INTO runtime.dispatcher (id, leader, leading_since, seen_at, listening)
           VALUES (1, %(name)s, now(), now(), true)
           ON CONFLICT (id) DO UPDATE SET leader = excluded.leader, leading_since = now(), seen_at = now(),
                                          listening = true""",
        {"name": name},
    )
    return True


async def report_leader(conn: Raw, *, listening: bool | None = None) -> None:
    """Show that the leader lives, and whether enqueues shall ring: while it is busy it looks by itself."""
    await conn.execute(
        "UPDATE runtime.dispatcher SET seen_at = now(), listening = coalesce(%(listening)s::bool, listening)",
        {"listening": listening},
    )


@dataclass(frozen=True, slots=True)
class StageCapacity:
    """What a stage may use now: nothing while paused, else the slots of so many live workers on its queue."""

    paused: bool
    slots: int
    workers: int


async def survey(conn: Raw) -> dict[str, StageCapacity]:
    """Return the capacity of every stage the database knows."""
    cursor = await conn.execute(
        """SELECT s.name, s.paused_at IS NOT NULL, coalesce(sum(w.slots), 0)::int, count(w.id)::int
             FROM runtime.stages AS s
             LEFT JOIN runtime.workers AS w ON split_part(s.name, '.', 1) = ANY (w.queues) AND w.draining_at IS NULL
                   AND w.heartbeat_at > now() - make_interval(secs => w.lease_seconds)
            GROUP BY s.name, s.paused_at"""
    )
    return {name: StageCapacity(*capacity) for name, *capacity in await cursor.fetchall()}


async def publish_limits(conn: Raw, stages: Iterable[Stage]) -> None:
    """Write the limits that handlers declare beside their stages, for ``runtime.jobs`` to say why a job waits."""
    known = [(stage.name, stage.limit.at_most if stage.limit else None) for stage in stages]
    await conn.execute(
        """UPDATE runtime.stages AS s SET limit_at_most = u.at_most
             FROM unnest(%(names)s::text[], %(limits)s::int[]) AS u(name, at_most)
            WHERE s.name = u.name AND s.limit_at_most IS DISTINCT FROM u.at_most""",
        {"names": [name for name, _ in known], "limits": [limit for _, limit in known]},
    )
