"""How each stage is doing, by counts that indexes serve: a table of millions is asked as cheaply as a small one.

No count looks at more than :data:`MOST` rows; where there are more, it says "more than". Reads only.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any

from psycopg.rows import dict_row

from models import every_table
from models.lifecycle import Job
from workers.runtime.database import Raw
from workers.runtime.store.causes import fingerprint
from workers.runtime.store.tables import JobTable, job_table

MOST = 10_000
# How far back failing attempts are told, and of how many of them the reasons are looked at.
RECENTLY = timedelta(minutes=5)
REASONS = 200
# What `store.settle` and `store.rescue` call an attempt that failed; a person's retry has another origin.
FAILED_ATTEMPTS = "change_action IN ('retry', 'fail', 'rescue')"


# Whatever the statistics say of a state: there is an index for each of these questions, in the order that is asked for.
# A bitmap or a sort would read every row of a state before the limit counts.
ALONG_INDEXES = "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageView:
    """One stage: its jobs by what they do or wait for, its rate, what goes wrong in it, who may run it.

    ``ready`` can start at once: due, dispatched or not. ``backing_off`` comes back after a failed attempt or a snooze,
    ``backing_off_reason`` is the commonest; ``later`` was enqueued for a later time; ``waiting`` is in a state where
    nobody works. ``completed`` is None for a stage after which jobs go on. Ended jobs are those that were not pruned.
    ``oldest_wait`` is that of what is ready. ``failing_attempts`` failed in the last five minutes, whatever became of
    their jobs. ``more_than`` names the counts that are at least what is said: there they were not counted on.
    """

    stage: str
    ready: int = 0
    backing_off: int = 0
    backing_off_reason: str | None = None
    later: int = 0
    running: int = 0
    waiting: int = 0
    completed: int | None = None
    failed: int = 0
    cancelled: int = 0
    oldest_wait: timedelta | None = None
    done_last_minute: int = 0
    failing_attempts: int = 0
    failing_reason: str | None = None
    slots: int = 0
    limit_at_most: int | None = None
    paused_at: Any = None
    paused_by: str | None = None
    more_than: Sequence[str] = field(default_factory=list)


async def list_stages(conn: Raw) -> list[StageView]:
    """Return every stage that the database knows, by name."""
    tables = {job_table(model).label: job_table(model) for model in every_table(Job)}
    async with conn.transaction():
        await conn.execute(ALONG_INDEXES)
        known = await _known(conn)
        counted: dict[str, dict[str, Any]] = {}
        for name in {stage["table_name"] for stage in known} & tables.keys():
            counted |= await _counts(conn, tables[name])
        attempts = await _attempts(conn)
    return [_view(stage, counted.get(stage["stage"], {}), attempts.get(stage["stage"], {})) for stage in known]


async def _known(conn: Raw) -> list[dict[str, Any]]:
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(
        """SELECT s.name AS stage, s.table_name, s.limit_at_most, s.paused_at, s.paused_by,
                  (SELECT coalesce(sum(w.slots), 0)::int FROM runtime.workers AS w
                    WHERE split_part(s.name, '.', 1) = ANY (w.queues) AND w.draining_at IS NULL
                      AND w.heartbeat_at > now() - make_interval(secs => w.lease_seconds)) AS slots
             FROM runtime.stages AS s ORDER BY s.name"""
    )
    return await cursor.fetchall()


@cache
def _counts_sql(t: JobTable) -> str:
    """Return one statement whose rows are (stage, what, how many, since when, reason); one of each at most."""
    c, cycle = t.column, t.lifecycle
    parts = []

    def count(stage: str, what: str, where: str, *, since: str = "NULL::timestamptz") -> None:
        parts.append(f"""
            SELECT '{stage}'::text, '{what}'::text, count(*), min(since), NULL::text FROM (
              SELECT {since} AS since FROM {t.name} WHERE {where} LIMIT {MOST + 1}) AS few""")

    for step in cycle.steps:
        is_state = f"{c['status']} = '{step.ready}'"
        undue = f"{is_state} AND {c['dispatched_at']} IS NULL AND {c['due_at']} IS NULL"
        flight = f"{c['dispatched_at']} IS NOT NULL AND {c['completed_at']} IS NULL"
        count(step.stage, "ready", undue, since=c["updated_at"])
        count(step.stage, "dispatched", f"{is_state} AND {flight}", since=c["updated_at"])
        count(step.stage, "running", f"{c['status']} = '{step.running}' AND {flight}")
        for what in ("failed", "cancelled"):
            where = f"{c['status']} = '{getattr(cycle, what)}'"
            if len(cycle.steps) > 1:
                where += f" AND {c['ended_in']} IN ('{step.ready}', '{step.running}')"
            count(step.stage, what, where)
    last = cycle.steps[-1]
    completed = f"{c['status']} = '{cycle.completed}'"
    # Of what ended so many are looked at, the newest; the reason's place tells how many they were.
    for what, when in (("completed", "IS NOT NULL"), ("done", "> now() - interval '1 minute'")):
        parts.append(f"""
            SELECT '{last.stage}', '{what}', count(*) FILTER (WHERE went_well), min(since), count(*)::text FROM (
              SELECT {completed} AS went_well, {c["completed_at"]} AS since FROM {t.name}
               WHERE {c["completed_at"]} {when} ORDER BY {c["completed_at"]} DESC LIMIT {MOST + 1}) AS few""")
    if waits := cycle.states - cycle.ready - cycle.running - cycle.terminal:
        states = ", ".join(f"'{state}'" for state in sorted(waits))
        count(last.stage, "waiting", f"{c['status']} IN ({states})")
    # One look along the index of due times, whatever the step: of so many the nearest are told apart.
    stages = " ".join(f"WHEN '{step.ready}' THEN '{step.stage}'" for step in cycle.steps)
    ready = ", ".join(f"'{state}'" for state in sorted(cycle.ready))
    parts.append(f"""
        SELECT stage, what, count(*), min(since), mode() WITHIN GROUP (ORDER BY reason) FROM (
          SELECT CASE {c["status"]}::text {stages} END AS stage,
                 CASE WHEN {c["due_at"]} <= now() THEN 'ready due'
                      WHEN {c["change_action"]} IN ('retry', 'rescue', 'snooze') THEN 'backing_off'
                      ELSE 'later' END AS what, {c["due_at"]} AS since, {c["change_reason"]} AS reason
            FROM {t.name} WHERE {c["status"]} IN ({ready}) AND {c["due_at"]} IS NOT NULL
           ORDER BY {c["due_at"]} LIMIT {MOST + 1}) AS soon GROUP BY stage, what""")
    return " UNION ALL ".join(parts)


async def _counts(conn: Raw, t: JobTable) -> dict[str, dict[str, Any]]:
    """Return by stage what its table says."""
    cursor = await conn.execute(f"SELECT *, now() FROM ({_counts_sql(t)}) AS counts (stage, what, n, since, reason)")
    found: dict[str, dict[str, Any]] = {step.stage: {} for step in t.lifecycle.steps}
    for stage, what, n, since, reason, now in await cursor.fetchall():
        found[stage][what] = (n, since, reason)
        found[stage]["now"] = now
    looked = sum(
        one[what][0] for one in found.values() for what in ("ready due", "backing_off", "later") if what in one
    )
    for one in found.values():
        one["cut"] = looked > MOST  # further due times were not looked at, of whatever stage
    return found


async def _attempts(conn: Raw) -> dict[str, dict[str, Any]]:
    """Return by stage how many attempts failed recently and why most did; and how many a step before the last ended."""
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(
        f"""SELECT s.name AS stage, failed.n AS failing, failed.reasons, done.n AS done
              FROM runtime.stages AS s
             CROSS JOIN LATERAL (
               SELECT count(*) AS n, (array_agg(change_reason ORDER BY created_at DESC))[:{REASONS}] AS reasons FROM (
                 SELECT t.change_reason, t.created_at FROM runtime.transitions AS t
                  WHERE t.stage = s.name AND t.created_at > now() - %(recently)s AND t.{FAILED_ATTEMPTS}
                    AND t.old_state = s.running ORDER BY t.created_at DESC LIMIT {MOST + 1}) AS few) AS failed
             CROSS JOIN LATERAL (
               SELECT count(*) AS n FROM (
                 SELECT FROM runtime.transitions AS t
                  WHERE t.stage = s.name AND t.created_at > now() - interval '1 minute'
                    AND t.change_action = 'complete' AND lower(t.new_state::text) <> 'completed'
                  ORDER BY t.created_at DESC LIMIT {MOST + 1}) AS few) AS done""",
        {"recently": RECENTLY},
    )
    return {row["stage"]: row for row in await cursor.fetchall()}


def _view(stage: dict[str, Any], found: dict[str, Any], attempts: dict[str, Any]) -> StageView:
    more: list[str] = []

    def number(name: str, *whats: str) -> int:
        n: int = sum(found[what][0] for what in whats if what in found)
        if n > MOST or (found.get("cut") and not {"backing_off", "later"}.isdisjoint(whats)):
            more.append(name)
        return min(n, MOST)

    waits = [found[what][1] for what in ("ready", "ready due", "dispatched") if what in found and found[what][1]]
    counts = {
        name: number(name, name) for name in ("backing_off", "later", "running", "waiting", "failed", "cancelled")
    }
    ready = number("ready", "ready", "ready due", "dispatched")
    if "ready" in more:
        more.append("oldest_wait")  # of those that were counted
    completed = number("completed", "completed") if "completed" in found else None
    if completed is not None and int(found["completed"][2]) > MOST and "completed" not in more:
        more.append("completed")  # of those that ended last
    failing = attempts.get("failing") or 0
    if failing > MOST:
        more.append("failing_attempts")
    return StageView(
        stage=stage["stage"],
        ready=ready,
        **counts,
        backing_off_reason=found["backing_off"][2] if "backing_off" in found else None,
        completed=completed,
        oldest_wait=max(found["now"] - min(waits), timedelta()) if waits else None,
        done_last_minute=_per_minute(found) if "done" in found else attempts.get("done") or 0,
        failing_attempts=min(failing, MOST),
        failing_reason=_commonest(attempts.get("reasons") or ()),
        slots=stage["slots"],
        limit_at_most=stage["limit_at_most"],
        paused_at=stage["paused_at"],
        paused_by=stage["paused_by"],
        more_than=sorted(more),
    )


def _per_minute(found: dict[str, Any]) -> int:
    """Return how many were done in the last minute; of more than are counted, as many as their rate makes of it."""
    n, since, looked_at = found["done"]
    if int(looked_at) <= MOST:
        return int(n)
    seconds: float = max((found["now"] - since).total_seconds(), 0.001)
    return int(n * 60 / seconds)


def _commonest(reasons: Iterable[str | None]) -> str | None:
    """Return the reason that most of these have in common, as the newest words it."""
    told = [reason for reason in reasons if reason]
    if not told:
        return None
    cause = Counter(map(fingerprint, told)).most_common(1)[0][0]
    return next(reason for reason in told if fingerprint(reason) == cause)
