"""Pick jobs through gates and behind shares; count the tickets of each gate; tell what is kept back.

A pick through gates never reads the jobs that are kept back, however many they are: it steps from one value of the
gate column to the next, and only looks at the jobs of the open ones. Only the leading dispatcher writes here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import NamedTuple
from uuid import UUID

from psycopg.types.json import Jsonb

from workers.runtime.database import Raw
from workers.runtime.handler.registry import Stage
from workers.runtime.shares import NOBODY, Crowd
from workers.runtime.store.dispatch import KEYS_PER_PASS, Picked, Window, _conditions, _mark, _room
from workers.runtime.store.leading import leads
from workers.runtime.store.tables import TICKETS, JobTable, job_table, tickets

UNLIMITED = 2**31 - 1
# A pass without a limit column reads at most this many jobs, shared out over the open gates.
JOBS_PER_PASS = 4_096
# So many jobs in order are searched for those who do not wait behind their own too large share.
SEARCHED = 256
KEY_BYTES, REASON_CHARS = 1_024, 2_000


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many more jobs of a stage may go out, by value of its gate column; ``others`` is for all other values.

    Other jobs go before those of the ``crowd``. Its owners are texts, empty for jobs without an owner.
    """

    keys: Mapping[str, int] = field(default_factory=dict)
    others: int = UNLIMITED
    crowd: Crowd = NOBODY


@dataclass(frozen=True, slots=True)
class GateCursor:
    """Where the next pass goes on: after this value of the gate column, and in each gate after this limited key."""

    gate: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GatedPass:
    """The jobs that a pass picked, the value of the gate column of each, and where the next pass goes on."""

    jobs: list[Picked]
    keys: list[str | None]
    cursor: GateCursor


@dataclass(frozen=True, slots=True)
class GateRow:
    """What is told of one gate; without a ``key`` it is about all other jobs of the stage."""

    stage: str
    key: str | None
    free: int
    until: datetime | None
    reason: str


def _order(t: JobTable) -> str:
    return ", ".join(f"j.{t.column[name]}" for name in ("priority", "created_at", "id"))


def _open(t: JobTable, stage: Stage) -> str:
    """Return the CTEs of the gates that have ready jobs and are open, found by a loose scan of the gate's index."""
    if stage.gate is None:
        return """
        doors AS (SELECT NULL::text AS door, 0 AS nth WHERE false),
        open AS MATERIALIZED (SELECT ''::text AS door, true AS other, %(others)s::int AS free)"""
    gate, ready = t.column[stage.gate], _conditions(t, stage)
    type_ = t.type_of(stage.gate)
    first = f"SELECT j.{gate} AS door FROM {t.name} AS j WHERE {ready} {{after}} ORDER BY j.{gate} LIMIT 1"
    return f"""
        gates AS MATERIALIZED (
          SELECT * FROM unnest(%(gate_keys)s::text[], %(gate_free)s::int[]) AS g (key, free)),
        doors (door, nth) AS (
          (SELECT one.door, 1 FROM ({first.format(after=f"AND j.{gate} > %(gate_cursor)s::{type_}")}) AS one
            WHERE %(gate_cursor)s::text IS NOT NULL AND (SELECT others FROM room) > 0
            UNION ALL
           SELECT one.door, 1 FROM ({first.format(after="")}) AS one
            WHERE %(gate_cursor)s::text IS NULL AND (SELECT others FROM room) > 0)
          UNION ALL
          SELECT next.door, nth + 1
            FROM doors CROSS JOIN LATERAL ({first.format(after=f"AND j.{gate} > doors.door")}) AS next
           WHERE nth < {KEYS_PER_PASS}),
        open AS MATERIALIZED (
          SELECT doors.door, gates.key IS NULL AS other, coalesce(gates.free, %(others)s::int) AS free
            FROM doors LEFT JOIN gates ON gates.key = doors.door::text
           WHERE coalesce(gates.free, %(others)s::int) > 0)"""


def _crowds(t: JobTable, stage: Stage) -> str:
    """Return the condition under which row ``j`` must let others go first: :meth:`workers.runtime.shares.Crowd.has`."""
    owner = f"coalesce(j.{t.column['owner_id']}::text, '') = ANY (%(crowding_owners)s::text[])"
    if stage.gate is None:
        return f"(%(is_crowded)s AND {owner})"
    key = f"j.{t.column[stage.gate]}::text = ANY (%(crowding_keys)s::text[])"
    return f"""(%(is_crowded)s AND (cardinality(%(crowding_owners)s::text[]) = 0 OR {owner})
            AND (cardinality(%(crowding_keys)s::text[]) = 0 OR {key}))"""


def _candidates(t: JobTable, stage: Stage) -> str:
    """Return the CTE of the jobs in front, in each open gate, of a stage without a limit."""
    ready, order = _conditions(t, stage), _order(t)
    chosen = f"SELECT {order}, {_crowds(t, stage)} AS crowds FROM {t.name} AS j WHERE {ready}"
    columns = "(priority, created_at, id, crowds)"
    if stage.gate is None:
        most = f"(SELECT greatest(others, 0) FROM room) + {SEARCHED}"
    else:
        chosen += f" AND j.{t.column[stage.gate]} = open.door"
        most = f"(SELECT least({JOBS_PER_PASS} / greatest(count(*), 1), {SEARCHED} + %(at_most)s) FROM open)"
    return f"""
        keys AS (SELECT NULL::text AS door, NULL::text AS key, 0 AS nth WHERE false),
        candidates AS (
          SELECT open.*, NULL::text AS key, {UNLIMITED} AS allowed, 1::bigint AS turn, front.*
            FROM open CROSS JOIN LATERAL ({chosen} ORDER BY {order} LIMIT {most}) AS front {columns})"""


def _candidates_fairly(t: JobTable, stage: Stage) -> str:
    """Return the CTEs of the jobs in front of a stage with a limit: in each open gate, key by key."""
    assert stage.limit is not None
    c, key, ready, order = t.column, t.column[stage.limit.column], _conditions(t, stage), _order(t)
    type_ = t.type_of(stage.limit.column)
    crowds = f"{_crowds(t, stage)} AS crowds"
    first = f"SELECT j.{key} AS key, {order}, {crowds} FROM {t.name} AS j WHERE {ready} {{of}} {{after}}"
    first += f" ORDER BY j.{key}, {order} LIMIT 1"

    def of(source: str) -> str:
        return f"AND j.{t.column[stage.gate]} = {source}.door" if stage.gate else ""

    of_open = first.format(of=of("open"), after="{after}")
    of_keys = first.format(of=of("keys"), after="{after}")
    last = f"(%(key_cursors)s::jsonb ->> open.door::text)::{type_}"
    columns = "(key, priority, created_at, id, crowds)"
    return f"""
        flight AS MATERIALIZED (
          SELECT j.{key} AS key, count(*) AS n FROM {t.name} AS j
           WHERE j.{c["dispatched_at"]} IS NOT NULL AND j.{c["completed_at"]} IS NULL
             AND j.{c["status"]} IN ('{stage.step.ready}', '{stage.step.running}') GROUP BY 1),
        keys (door, key, priority, created_at, id, crowds, nth) AS (
          (SELECT open.door, one.*, 1
             FROM open CROSS JOIN LATERAL ({of_open.format(after=f"AND j.{key} > {last}")}) AS one {columns}
            WHERE {last} IS NOT NULL AND (SELECT others FROM room) > 0
            UNION ALL
           SELECT open.door, one.*, 1
             FROM open CROSS JOIN LATERAL ({of_open.format(after="")}) AS one {columns}
            WHERE {last} IS NULL AND (SELECT others FROM room) > 0)
          UNION ALL
          SELECT keys.door, next.*, nth + 1
            FROM keys CROSS JOIN LATERAL ({of_keys.format(after=f"AND j.{key} > keys.key")}) AS next {columns}
           WHERE nth < (SELECT greatest({KEYS_PER_PASS} / greatest(count(*), 1), 1) FROM open)),
        firsts AS MATERIALIZED (
          SELECT keys.*, open.other, open.free, least(%(limit)s - coalesce(flight.n, 0), %(at_most)s) AS allowed
            FROM keys JOIN open ON open.door = keys.door LEFT JOIN flight ON flight.key = keys.key
           WHERE coalesce(flight.n, 0) < %(limit)s),
        plenty AS MATERIALIZED (
          SELECT coalesce(sum(least(n, free)), 0) >= 2 * (SELECT others FROM room) AS it_is
            FROM (SELECT count(*) FILTER (WHERE NOT crowds) AS n, max(free) AS free
                    FROM firsts GROUP BY door) AS found),
        candidates AS (
          SELECT door, other, free, key, allowed, 1::bigint AS turn, priority, created_at, id, crowds FROM firsts
           UNION ALL
          SELECT door, other, free, key, allowed, more.turn, more.priority, more.created_at, more.id, more.crowds
            FROM firsts CROSS JOIN LATERAL (
              SELECT {order}, {crowds}, row_number() OVER (ORDER BY {order}) AS turn
                FROM {t.name} AS j WHERE {ready} {of("firsts")} AND j.{key} = firsts.key
               ORDER BY {order} OFFSET 1 LIMIT least(firsts.allowed, firsts.free) - 1)
              AS more (priority, created_at, id, crowds, turn)
           WHERE NOT (SELECT it_is FROM plenty))"""


@cache
def _pick_through_sql(t: JobTable, stage: Stage, *, fenced: bool) -> str:
    """Return the pick of a stage with gates, or with jobs that wait behind a too large share.

    The jobs of an owner or a key that holds more than its share come last and get only the usual room. A gate lets out
    as many as it has free, and all gates without an allowance of their own share one.
    """
    candidates = _candidates(t, stage) if stage.limit is None else _candidates_fairly(t, stage)
    order = "crowds, turn, priority, created_at, id"
    gate = "CASE WHEN NOT other THEN door::text END"
    return f"""
        WITH RECURSIVE {_room(t, stage, beside=True)}, {_open(t, stage)}, {candidates},
        within_limit AS (
          SELECT *, row_number() OVER (PARTITION BY key ORDER BY {order}) AS nth_of_key FROM candidates),
        within_gate AS (
          SELECT *, row_number() OVER (PARTITION BY {gate} ORDER BY {order}) AS nth_of_gate
            FROM within_limit WHERE key IS NULL OR nth_of_key <= allowed),
        picked AS (
          SELECT id, door, turn, crowds
            FROM (SELECT *, row_number() OVER (ORDER BY {order}) AS place
                    FROM within_gate WHERE nth_of_gate <= free) AS one
           WHERE place <= (SELECT CASE WHEN one.crowds THEN n ELSE others END FROM room)),
        {_mark(t, stage, fenced=fenced)}
        SELECT marked.id, version, created_at, door::text,
               (SELECT (array_agg(door::text ORDER BY nth DESC))[1] FROM doors HAVING count(*) >= {KEYS_PER_PASS}),
               (SELECT jsonb_object_agg(door, last) FROM (
                  SELECT door::text, (array_agg(key::text ORDER BY nth DESC))[1] AS last FROM keys GROUP BY door
                  HAVING count(*) >= (SELECT greatest({KEYS_PER_PASS} / greatest(count(*), 1), 1) FROM open)) AS walks),
               (SELECT others FROM room)
          FROM (SELECT 1) AS always LEFT JOIN (marked JOIN picked ON picked.id = marked.id) ON true
         ORDER BY crowds, turn, priority, created_at, marked.id"""


async def pick_through_gates(
    conn: Raw,
    stage: Stage,
    window: Window,
    allowance: Allowance,
    *,
    cursor: GateCursor | None = None,
    term: int | None = None,
) -> GatedPass:
    """Give tickets to due jobs like :func:`workers.runtime.store.dispatch.pick`, but only inside ``allowance``."""
    t = job_table(stage.model)
    cursor = cursor or GateCursor()
    values = {
        "slots": window.slots,
        "floor": window.floor,
        "at_most": window.at_most,
        "beside": window.beside if allowance.crowd else 0,
        "limit": stage.limit.at_most if stage.limit else None,
        "gate_keys": list(allowance.keys),
        "gate_free": [min(max(free, 0), UNLIMITED) for free in allowance.keys.values()],
        "others": min(max(allowance.others, 0), UNLIMITED),
        "gate_cursor": cursor.gate,
        "key_cursors": Jsonb(dict(cursor.keys)),
        "is_crowded": bool(allowance.crowd),
        "crowding_owners": sorted(allowance.crowd.owners),
        "crowding_keys": sorted(allowance.crowd.keys),
        "term": term,
    }
    rows = await (await conn.execute(_pick_through_sql(t, stage, fenced=term is not None), values)).fetchall()
    gate, keys, room = rows[0][4:]
    if room <= 0:  # the statement looked at no job
        return GatedPass([], [], cursor)
    found = [row for row in rows if row[0] is not None]
    return GatedPass([Picked(*row[:3]) for row in found], [row[3] for row in found], GateCursor(gate, keys or {}))


@cache
def _keys_sql(t: JobTable, stage: Stage) -> str:
    assert stage.gate is not None
    gate, ready = t.column[stage.gate], _conditions(t, stage)
    first = f"SELECT j.{gate} AS door FROM {t.name} AS j WHERE {ready} {{after}} ORDER BY j.{gate} LIMIT 1"
    return f"""
        WITH RECURSIVE doors (door, nth) AS (
          (SELECT one.door, 1 FROM ({first.format(after="")}) AS one)
          UNION ALL
          SELECT next.door, nth + 1
            FROM doors CROSS JOIN LATERAL ({first.format(after=f"AND j.{gate} > doors.door")}) AS next
           WHERE nth < %(most)s)
        SELECT door::text FROM doors"""


async def ready_keys(conn: Raw, stage: Stage, *, most: int) -> list[str]:
    """Return the values of the gate column that ready jobs of ``stage`` have, in their order, at most so many."""
    if stage.gate is None:
        return []
    cursor = await conn.execute(_keys_sql(job_table(stage.model), stage), {"most": most})
    return [key for (key,) in await cursor.fetchall()]


class Flight(NamedTuple):
    """How many jobs of one owner and one value of the gate column have tickets, and how many are claimed."""

    owner: str
    key: str | None
    unclaimed: int
    claimed: int


@cache
def _flight_sql(t: JobTable, stage: Stage) -> str:
    c = t.column
    key = f"{c[stage.gate]}::text" if stage.gate else "NULL::text"
    return f"""
        SELECT coalesce({c["owner_id"]}::text, ''), {key},
               count(*) FILTER (WHERE {c["status"]} = '{stage.step.ready}'),
               count(*) FILTER (WHERE {c["status"]} = '{stage.step.running}' AND {c["lease_owner"]} IS NOT NULL)
          FROM {t.name}
         WHERE {c["dispatched_at"]} IS NOT NULL AND {c["completed_at"]} IS NULL
           AND {c["status"]} IN ('{stage.step.ready}', '{stage.step.running}') GROUP BY 1, 2"""


async def count_flight(conn: Raw, stage: Stage) -> list[Flight]:
    """Return the dispatched jobs of ``stage`` by owner and value of the gate column."""
    cursor = await conn.execute(_flight_sql(job_table(stage.model), stage))
    return [Flight(*row) for row in await cursor.fetchall()]


class Group(NamedTuple):
    """The owner of a job, empty if it has none, and its value of the gate column."""

    owner: str
    key: str | None


@cache
def _groups_sql(t: JobTable, stage: Stage) -> str:
    c = t.column
    key = f"j.{c[stage.gate]}::text" if stage.gate else "NULL::text"
    return f"""
        SELECT j.{c["id"]}, u.version, coalesce(j.{c["owner_id"]}::text, ''), {key} FROM {t.name} AS j, {TICKETS}
         WHERE j.{c["id"]} = ANY (%(ids)s::uuid[]) AND j.{c["id"]} = u.id AND j.{c["version"]} = u.version"""


async def read_groups(conn: Raw, stage: Stage, batch: Sequence[tuple[UUID, int]]) -> dict[tuple[UUID, int], Group]:
    """Return whose the jobs of these tickets are, and what gate they wait at."""
    cursor = await conn.execute(_groups_sql(job_table(stage.model), stage), tickets(batch))
    return {(row[0], row[1]): Group(row[2], row[3]) for row in await cursor.fetchall()}


_WRITE_GATES = f"""
    WITH told AS MATERIALIZED (
      SELECT * FROM jsonb_to_recordset(%(rows)s::jsonb)
               AS g (stage text, key text, free int, until timestamptz, reason text) WHERE {leads()}),
    gone AS (
      DELETE FROM runtime.gates AS g WHERE {leads()} AND NOT EXISTS (
        SELECT FROM told WHERE told.stage = g.stage AND told.key IS NOT DISTINCT FROM g.key))
    INSERT INTO runtime.gates AS g (stage, key, free, until, reason)
    SELECT stage, key, free, until, reason FROM told
        ON CONFLICT (stage, key) DO UPDATE SET free = excluded.free, until = excluded.until, reason = excluded.reason"""


async def write_gates(conn: Raw, rows: Sequence[GateRow], *, term: int) -> None:
    """Let ``runtime.gates`` tell these gates and no others, if ``term`` leads."""
    told = [
        {
            "stage": row.stage,
            "key": row.key,
            "free": max(row.free, 0),
            "until": row.until and row.until.isoformat(),
            "reason": row.reason[:REASON_CHARS],
        }
        for row in rows
        if row.key is None or len(row.key.encode()) <= KEY_BYTES
    ]
    await conn.execute(_WRITE_GATES, {"rows": Jsonb(told), "term": term})


async def read_gates(conn: Raw) -> list[GateRow]:
    """Return what the leader has told last, by stage and key."""
    cursor = await conn.execute(
        "SELECT stage, key, free, until, reason FROM runtime.gates ORDER BY stage, key NULLS LAST"
    )
    return [GateRow(*row) for row in await cursor.fetchall()]
