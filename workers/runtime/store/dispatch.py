"""Pick due jobs and give them tickets; take tickets back; wake jobs when they are due.

The leading dispatcher runs these statements with its ``term``. A statement of a term that has ended changes nothing
(:mod:`workers.runtime.store.leading`). Conditions name states literally, because otherwise the planner cannot use the
partial indexes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

from models.lifecycle import Job
from workers.runtime.database import Raw
from workers.runtime.handler.registry import Stage
from workers.runtime.store.leading import if_leading, leads
from workers.runtime.store.tables import TICKETS, JobTable, job_table, tickets

# One pass over a stage with a limit looks at this many keys; the next pass continues after them.
KEYS_PER_PASS = 512


class Picked(NamedTuple):
    """One job that now holds a ticket: its id and version, which the message carries, and when it was created."""

    id: UUID
    version: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Window:
    """How many dispatched jobs of a stage may wait for a slot: twice the free ``slots``, but at least ``floor``.

    So a freed slot gets a job at once. ``at_most`` bounds one pass.
    """

    slots: int
    at_most: int
    floor: int = 1


@dataclass(frozen=True, slots=True)
class Pass:
    """The jobs that one pass picked, and the key after which the next pass starts (None: at the first key)."""

    jobs: list[Picked]
    cursor: Any


def _conditions(t: JobTable, stage: Stage, alias: str = "j") -> str:
    c = t.column
    return (
        f"{alias}.{c['status']} = '{stage.step.ready}' AND {alias}.{c['dispatched_at']} IS NULL "
        f"AND {alias}.{c['due_at']} IS NULL"
    )


def _room(t: JobTable, stage: Stage) -> str:
    """Return the CTE that counts the dispatched jobs and computes how many more may be dispatched.

    It also turns off ``synchronous_commit`` for its transaction, so that the commit does not wait for the disk. If a
    crash of Postgres loses a ticket, its message claims nothing and the job is picked again. A crash that loses a
    ticket also loses the claim after it.
    """
    c = t.column
    return f"""
        room AS MATERIALIZED (
          SELECT least(%(at_most)s, greatest(2 * (%(slots)s - running), %(floor)s) - waiting)::bigint AS n,
                 set_config('synchronous_commit', 'off', true)
            FROM (SELECT count(*) FILTER (WHERE {c["status"]} = '{stage.step.ready}') AS waiting,
                         count(*) FILTER (WHERE {c["status"]} = '{stage.step.running}'
                                            AND {c["lease_owner"]} IS NOT NULL) AS running
                    FROM {t.name}
                   WHERE {c["dispatched_at"]} IS NOT NULL AND {c["completed_at"]} IS NULL
                     AND {c["status"]} IN ('{stage.step.ready}', '{stage.step.running}')) AS out)"""


def _mark(t: JobTable, stage: Stage, *, fenced: bool) -> str:
    """Return the CTEs that lock the picked rows and set their tickets. Rows that others have locked are skipped."""
    c = t.column
    # With arrays, and with the status hidden in an expression, both steps use the primary key whatever the statistics
    # say. With joins and a new backlog that was not analysed yet, the planner scanned the ready index once per job
    # (6 s for 512 of 20,000 jobs).
    return f"""
        held AS (
          SELECT j.{c["id"]} AS id FROM {t.name} AS j WHERE j.{c["id"]} = ANY (ARRAY(SELECT id FROM picked))
             AND j.{c["status"]} || '' = '{stage.step.ready}' AND j.{c["dispatched_at"]} IS NULL
             AND j.{c["due_at"]} IS NULL FOR UPDATE SKIP LOCKED),
        marked AS (
          UPDATE {t.name} AS j SET {c["dispatched_at"]} = clock_timestamp()
           WHERE j.{c["id"]} = ANY ({if_leading("SELECT id FROM held", fenced=fenced)})
          RETURNING j.{c["id"]} AS id, j.{c["version"]} AS version, j.{c["created_at"]} AS created_at,
                    j.{c["priority"]} AS priority)"""


@cache
def _pick_sql(t: JobTable, stage: Stage, *, fenced: bool) -> str:
    c = t.column
    return f"""
        WITH {_room(t, stage)},
        picked AS (
          SELECT j.{c["id"]} AS id FROM {t.name} AS j WHERE {_conditions(t, stage)}
           ORDER BY j.{c["priority"]}, j.{c["created_at"]}, j.{c["id"]}
           LIMIT (SELECT greatest(n, 0) FROM room)),
        {_mark(t, stage, fenced=fenced)}
        SELECT id, version, created_at FROM marked ORDER BY priority, created_at, id"""


@cache
def _pick_fairly_sql(t: JobTable, stage: Stage, *, from_first: bool, fenced: bool) -> str:
    assert stage.limit is not None
    c, key = t.column, t.column[stage.limit.column]
    ready = _conditions(t, stage)
    start = "" if from_first else f"AND j.{key} > %(cursor)s"
    order = ", ".join(f"j.{c[name]}" for name in ("priority", "created_at", "id"))
    first = f"""
          SELECT j.{key} AS key, {order} FROM {t.name} AS j WHERE {ready} {{after}} ORDER BY j.{key}, {order} LIMIT 1"""
    # A loose index scan goes from key to key and finds the first job of each key. A key with a million jobs costs no
    # more than a key with one job. Turns come before priorities: the first job of every key goes before the second job
    # of any key. If the first jobs fill the room, no other job is read; else the lateral part adds as many jobs of each
    # key as its limit allows. If there are more keys than one pass looks at, half of the room is enough: the next pass
    # looks at the other keys.
    return f"""
        WITH RECURSIVE {_room(t, stage)},
        flight AS MATERIALIZED (
          SELECT j.{key} AS key, count(*) AS n FROM {t.name} AS j
           WHERE j.{c["dispatched_at"]} IS NOT NULL AND j.{c["completed_at"]} IS NULL
             AND j.{c["status"]} IN ('{stage.step.ready}', '{stage.step.running}') GROUP BY 1),
        keys (key, priority, created_at, id, nth) AS (
          (SELECT one.*, 1 FROM ({first.format(after=start)}) AS one WHERE (SELECT n FROM room) > 0)
          UNION ALL
          SELECT next.*, nth + 1
            FROM keys CROSS JOIN LATERAL ({first.format(after=f"AND j.{key} > keys.key")}) AS next
           WHERE nth < {KEYS_PER_PASS}),
        firsts AS MATERIALIZED (
          SELECT keys.*, least(%(limit)s - coalesce(flight.n, 0), %(at_most)s) AS allowed
            FROM keys LEFT JOIN flight ON flight.key = keys.key WHERE coalesce(flight.n, 0) < %(limit)s),
        plenty AS MATERIALIZED (
          SELECT count(*) * CASE WHEN (SELECT count(*) FROM keys) < {KEYS_PER_PASS} THEN 1 ELSE 2 END
                 >= (SELECT n FROM room) AS it_is FROM firsts),
        picked AS (
          SELECT id, turn
            FROM (SELECT id, 1::bigint AS turn, priority, created_at FROM firsts
                   UNION ALL
                  SELECT more.id, more.turn, more.priority, more.created_at
                    FROM firsts CROSS JOIN LATERAL (
                      SELECT {order}, row_number() OVER (ORDER BY {order}) AS turn
                        FROM {t.name} AS j WHERE {ready} AND j.{key} = firsts.key
                       ORDER BY {order} OFFSET 1 LIMIT firsts.allowed - 1) AS more (priority, created_at, id, turn)
                   WHERE NOT (SELECT it_is FROM plenty)) AS turns
           ORDER BY turn, priority, created_at, id LIMIT (SELECT greatest(n, 0) FROM room)),
        {_mark(t, stage, fenced=fenced)}
        SELECT marked.id, version, created_at, walk.last, walk.n, (SELECT n FROM room)
          FROM (SELECT (array_agg(key ORDER BY nth DESC))[1] AS last, count(*) AS n FROM keys) AS walk
          LEFT JOIN (marked JOIN picked ON picked.id = marked.id) ON true
         ORDER BY turn, priority, created_at, marked.id"""


async def pick(conn: Raw, stage: Stage, window: Window, *, cursor: Any = None, term: int | None = None) -> Pass:
    """Give tickets to due jobs of ``stage``, inside the window and every limit, and return the jobs in order.

    Without a limit, the order is by priority, then age. With a limit, it is one job of each key in turn, then priority,
    then age, for up to :data:`KEYS_PER_PASS` keys after ``cursor``. The leader passes its ``term``; without it, the
    statement has no fence.
    """
    t = job_table(stage.model)
    values = {"slots": window.slots, "floor": window.floor, "at_most": window.at_most, "term": term}
    fenced = term is not None
    if stage.limit is None:
        rows = await (await conn.execute(_pick_sql(t, stage, fenced=fenced), values)).fetchall()
        return Pass([Picked(*row) for row in rows], None)
    sql = _pick_fairly_sql(t, stage, from_first=cursor is None, fenced=fenced)
    rows = await (await conn.execute(sql, {**values, "limit": stage.limit.at_most, "cursor": cursor})).fetchall()
    last, keys, room = rows[0][3:]
    if room <= 0:  # the statement looked at no key
        return Pass([], cursor)
    jobs = [Picked(*row[:3]) for row in rows if row[0] is not None]
    return Pass(jobs, last if keys >= KEYS_PER_PASS else None)


@cache
def _unmark_sql(t: JobTable, stage: Stage, *, fenced: bool) -> str:
    c = t.column
    old = f"""
           SELECT i.{c["id"]} FROM {t.name} AS i
            WHERE i.{c["status"]} = '{stage.step.ready}' AND i.{c["dispatched_at"]} <= now() - %(older_than)s
              AND i.{c["completed_at"]} IS NULL LIMIT 10000 FOR UPDATE SKIP LOCKED"""
    return f"""
        UPDATE {t.name} AS j SET {c["dispatched_at"]} = NULL
         WHERE j.{c["id"]} = ANY ({if_leading(old, fenced=fenced)})"""


async def unmark(conn: Raw, stage: Stage, *, older_than: timedelta, term: int | None = None) -> int:
    """Take back the tickets of jobs that were dispatched this long ago and not claimed; return how many.

    A late message claims nothing without its ticket, so it cannot exceed a limit.
    """
    sql = _unmark_sql(job_table(stage.model), stage, fenced=term is not None)
    return (await conn.execute(sql, {"older_than": older_than, "term": term})).rowcount


@cache
def _unmark_exactly_sql(t: JobTable, *, fenced: bool) -> str:
    c = t.column
    fence = f" AND {leads()}" if fenced else ""
    return f"""
        UPDATE {t.name} AS j SET {c["dispatched_at"]} = NULL
          FROM {TICKETS}
         WHERE j.{c["id"]} = ANY (%(ids)s::uuid[]) AND j.{c["id"]} = u.id AND j.{c["version"]} = u.version{fence}"""


async def unmark_exactly(
    conn: Raw, model: type[Job], batch: Sequence[tuple[UUID, int]], *, term: int | None = None
) -> None:
    """Take back these tickets: their batch was not published, or a draining worker returns it unclaimed."""
    sql = _unmark_exactly_sql(job_table(model), fenced=term is not None)
    await conn.execute(sql, {**tickets(batch), "term": term})


@cache
def _wake_sql(t: JobTable, *, fenced: bool) -> str:
    c = t.column
    ready = ", ".join(f"'{state}'" for state in sorted(t.lifecycle.ready))
    due = f"""
           SELECT i.{c["id"]} FROM {t.name} AS i WHERE i.{c["status"]} IN ({ready}) AND i.{c["due_at"]} <= now()
            ORDER BY i.{c["due_at"]} LIMIT 1000 FOR UPDATE SKIP LOCKED"""
    return f"""
        UPDATE {t.name} AS j SET {c["due_at"]} = NULL, {c["updated_at"]} = now()
         WHERE j.{c["id"]} = ANY ({if_leading(due, fenced=fenced)})"""


async def wake_due(conn: Raw, model: type[Job], *, term: int | None = None) -> int:
    """Clear ``due_at`` of jobs that are due now, so that they enter the ready index; return how many (≤ 1,000).

    ``updated_at`` is then the time since which they are ready.
    """
    sql = _wake_sql(job_table(model), fenced=term is not None)
    return (await conn.execute(sql, {"term": term})).rowcount
