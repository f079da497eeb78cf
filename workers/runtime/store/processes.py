"""The rows of worker processes and of the leading dispatcher: who is alive, who leads, the slots of each stage."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from workers.runtime.database import Raw
from workers.runtime.handler.registry import Stage

# A leader that does not renew its lease for this long may be replaced. It renews once a second.
LEADER_LEASE = timedelta(seconds=3)


class LostLeadError(Exception):
    """Another dispatcher has taken the lead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """What a worker process writes about itself."""

    id: UUID
    name: str
    queues: tuple[str, ...]
    slots: int
    lease_seconds: float
    version: str | None = None


async def beat_heart(
    conn: Raw, worker: WorkerRow, *, running: int, provider: Mapping[str, Any] | None = None
) -> datetime:
    """Write the heartbeat of ``worker``, which renews all leases that it holds; return the database's time.

    ``provider`` is who answers its language model calls; None if that is not known yet.
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
    """Write that ``worker`` takes no more jobs."""
    await conn.execute("UPDATE runtime.workers SET draining_at = now() WHERE id = %(id)s", {"id": worker})


async def remove_worker(conn: Raw, worker: UUID) -> None:
    """Delete the row of a worker that stopped and holds no lease."""
    await conn.execute("DELETE FROM runtime.workers WHERE id = %(id)s", {"id": worker})


async def forget_silent_workers(conn: Raw) -> int:
    """Delete the rows of workers that were silent for a day; return how many. Their jobs were rescued long ago.

    A heartbeat in the future is deleted too, because its worker would never count as silent.
    """
    cursor = await conn.execute(
        """DELETE FROM runtime.workers
            WHERE heartbeat_at NOT BETWEEN now() - interval '1 day' AND now() + interval '1 day'"""
    )
    return cursor.rowcount


# A lease may be taken after it has expired, or when the session that held it has ended. A role that may not see the
# start of another role's session compares only the process id. Then a new session with the same process id keeps the
# lease until it expires.
_VACANT = """(held.expires_at <= now() OR held.expires_at > now() + interval '1 hour' OR NOT EXISTS (
      SELECT FROM pg_stat_activity AS one WHERE one.pid = held.session_pid
         AND coalesce(one.backend_start, held.session_started) = held.session_started))"""

_LEAD_SQL = f"""
    WITH vacancy AS (
      SELECT NOT EXISTS (SELECT FROM runtime.dispatcher AS held WHERE held.id = 1 AND NOT {_VACANT}) AS it_is)
    INSERT INTO runtime.dispatcher AS held
           (id, term, leader, leading_since, seen_at, expires_at, session_pid, session_started, listening)
    SELECT 1, nextval('runtime.dispatcher_terms'), %(name)s, now(), now(), now() + %(lease)s, pg_backend_pid(),
           (SELECT own.backend_start FROM pg_stat_activity AS own WHERE own.pid = pg_backend_pid()), true
      FROM vacancy WHERE it_is
        ON CONFLICT (id) DO UPDATE
       SET term = excluded.term, leader = excluded.leader, leading_since = now(), seen_at = now(),
           expires_at = excluded.expires_at, session_pid = excluded.session_pid,
           session_started = excluded.session_started, listening = true
     WHERE {_VACANT}
    RETURNING term""".strip()


async def try_to_lead(conn: Raw, *, name: str) -> int | None:
    """Take the leader's lease if it is free, and return its term; return None if another session leads.

    The term is the fence of the leader's statements: it grows with every leader and is never used again. If the old
    leader is running a statement, the taking of the lease waits for it.
    """
    cursor = await conn.execute(_LEAD_SQL.encode(), {"name": name, "lease": LEADER_LEASE})
    row = await cursor.fetchone()
    return row[0] if row else None


async def report_leader(conn: Raw, term: int, *, listening: bool | None = None) -> None:
    """Renew the leader's lease; ``listening`` says whether enqueues notify it. A busy leader polls instead.

    Raise LostLeadError if another dispatcher leads.
    """
    cursor = await conn.execute(
        """UPDATE runtime.dispatcher SET seen_at = now(), expires_at = now() + %(lease)s,
                  listening = coalesce(%(listening)s::bool, listening)
            WHERE id = 1 AND term = %(term)s""",
        {"listening": listening, "term": term, "lease": LEADER_LEASE},
    )
    if not cursor.rowcount:
        raise LostLeadError(f"another dispatcher leads since term {term} ended")


@dataclass(frozen=True, slots=True)
class StageCapacity:
    """What a stage may use now: nothing while it is paused, else the ``slots`` of the live ``workers`` of its queue."""

    paused: bool
    slots: int
    workers: int


async def survey(conn: Raw) -> dict[str, StageCapacity]:
    """Return the capacity of every stage that the database knows."""
    cursor = await conn.execute(
        """SELECT s.name, s.paused_at IS NOT NULL,
                  greatest(least(coalesce(sum(w.slots), 0), 2147483647), 0)::int, count(w.id)::int
             FROM runtime.stages AS s
             LEFT JOIN runtime.workers AS w ON split_part(s.name, '.', 1) = ANY (w.queues) AND w.draining_at IS NULL
                   AND w.heartbeat_at > now() - make_interval(secs => greatest(least(w.lease_seconds, 86400), 0))
                   AND w.heartbeat_at < now() + interval '1 minute'
            GROUP BY s.name, s.paused_at"""
    )
    return {name: StageCapacity(*capacity) for name, *capacity in await cursor.fetchall()}


async def write_limits(conn: Raw, stages: Iterable[Stage]) -> None:
    """Write the limits that handlers declare for their stages; ``runtime.jobs`` needs them to say why a job waits."""
    known = [(stage.name, stage.limit.at_most if stage.limit else None) for stage in stages]
    await conn.execute(
        """UPDATE runtime.stages AS s SET limit_at_most = u.at_most
             FROM unnest(%(names)s::text[], %(limits)s::int[]) AS u(name, at_most)
            WHERE s.name = u.name AND s.limit_at_most IS DISTINCT FROM u.at_most""",
        {"names": [name for name, _ in known], "limits": [limit for _, limit in known]},
    )
