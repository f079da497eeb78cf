"""The state of each stage: by the counts that are kept, and by counts along indexes. No table is read as a whole.

How many jobs are in a state is exact. No count along an index reads more than :data:`MAX_COUNTED` rows; if there are
more, the view says "more than". Only reads.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from typing import Any

from psycopg.rows import dict_row

from models import every_table
from models.lifecycle import Job, Lifecycle, Step
from workers.runtime.database import Raw
from workers.runtime.store.causes import cause_of
from workers.runtime.store.counts import read_counts
from workers.runtime.store.gates import GateRow, read_gates
from workers.runtime.store.oldest import OldestWait, read_oldest_waits
from workers.runtime.store.tables import JobTable, job_table
from workers.runtime.store.waiting import in_list

MAX_COUNTED = 10_000
# Failed attempts of this period are counted, and the reasons of at most this many of them are read.
RECENT_PERIOD = timedelta(minutes=5)
MAX_REASONS_READ = 200
# The actions that `store.settle` and `store.rescue` write for a failed attempt. A person's retry has another old state.
FAILED_ATTEMPTS = "change_action IN ('retry', 'fail', 'rescue')"

# Each of these queries has an index with its order. Whatever the statistics say, the planner must use it: a bitmap scan
# or a sort would read every row of a state before the limit applies.
ALONG_INDEXES = "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageView:
    """One stage: the number of its jobs by state, its rate, its failures, and its slots and limits.

    - ``ready``: jobs that can start at once, because they are due; dispatched or not.
    - ``backing_off``: jobs that are due later after a failed attempt or a snooze; ``backing_off_reason`` is the most
      common reason.
    - ``later``: jobs that were enqueued for a later time.
    - ``waiting``: jobs in a wait: a person or an agent decides.
    - ``completed``: None if jobs of this stage continue in another one.
    - ``running``, ``waiting``, ``completed``, ``failed``, ``cancelled``: exact, however many. Good, bad and neutral
      ends of a domain count with the last three; pruned jobs do not.
    - ``oldest_wait``: the longest time that a ready job has waited.
    - ``failing_attempts``: attempts that failed in the last five minutes, whatever happened to their jobs since.
    - ``gates``: what keeps ready jobs back, all of them or those with one value of the gate column.
    - ``more_than``: the names of the counts that stopped at their maximum; the real number is larger.
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
    gates: Sequence[GateRow] = field(default_factory=list)
    more_than: Sequence[str] = field(default_factory=list)


async def list_stages(conn: Raw) -> list[StageView]:
    """Return every stage that the database knows, by name."""
    tables = {job_table(model).label: job_table(model) for model in every_table(Job)}
    async with conn.transaction():
        await conn.execute(ALONG_INDEXES)
        known = await _read_stages(conn)
        counts: dict[str, dict[str, int]] = defaultdict(dict)
        for one in await read_counts(conn):
            counts[one.stage][one.state] = one.jobs
        counted: dict[str, dict[str, Any]] = {}
        for name in {stage["table_name"] for stage in known} & tables.keys():
            counted |= await _count_jobs(conn, tables[name])
            for step in tables[name].lifecycle.steps:
                counted[step.stage]["exact"] = _exact(tables[name].lifecycle, step, counts)
        attempts = await _count_attempts(conn)
        gates = await read_gates(conn)
        views = [_view(stage, counted.get(stage["stage"], {}), attempts.get(stage["stage"], {})) for stage in known]
        if any("oldest_wait" in view.more_than for view in views):
            oldest = {one.stage: one for one in await read_oldest_waits(conn)}
            views = [_with_oldest(view, oldest.get(view.stage)) for view in views]
    return [replace(view, gates=[gate for gate in gates if gate.stage == view.stage]) for view in views]


async def _read_stages(conn: Raw) -> list[dict[str, Any]]:
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(
        """SELECT s.name AS stage, s.table_name, s.limit_at_most, s.paused_at, s.paused_by,
                  (SELECT greatest(least(coalesce(sum(w.slots), 0), 2147483647), 0)::int FROM runtime.workers AS w
                    WHERE split_part(s.name, '.', 1) = ANY (w.queues) AND w.draining_at IS NULL
                      AND w.heartbeat_at
                          > now() - make_interval(secs => greatest(least(w.lease_seconds, 86400), 0))) AS slots
             FROM runtime.stages AS s ORDER BY s.name"""
    )
    return await cursor.fetchall()


@cache
def _counts_sql(t: JobTable) -> str:
    """Return one statement with the rows (stage, what, number, since, reason), at most one per stage and what."""
    c, cycle = t.column, t.lifecycle
    parts = []

    def count(stage: str, what: str, where: str, *, since: str = "NULL::timestamptz") -> None:
        parts.append(f"""
            SELECT '{stage}'::text, '{what}'::text, count(*), min(since), NULL::text FROM (
              SELECT {since} AS since FROM {t.name} WHERE {where} LIMIT {MAX_COUNTED + 1}) AS few""")

    for step in cycle.steps:
        is_state = f"{c['status']} = '{step.ready}'"
        undue = f"{is_state} AND {c['dispatched_at']} IS NULL AND {c['due_at']} IS NULL"
        flight = f"{c['dispatched_at']} IS NOT NULL AND {c['completed_at']} IS NULL"
        count(step.stage, "ready", undue, since=c["updated_at"])
        count(step.stage, "dispatched", f"{is_state} AND {flight}", since=c["updated_at"])
    last = cycle.steps[-1]
    completed = f"{c['status']} IN ({in_list(cycle.good)})"
    # Only the newest ended jobs are read. The column of the reason holds the number of rows read.
    parts.append(f"""
        SELECT '{last.stage}', 'done', count(*) FILTER (WHERE went_well), min(since), count(*)::text FROM (
          SELECT {completed} AS went_well, {c["completed_at"]} AS since FROM {t.name}
           WHERE {c["completed_at"]} > now() - interval '1 minute'
           ORDER BY {c["completed_at"]} DESC LIMIT {MAX_COUNTED + 1}) AS few""")
    # One scan of the index of due times for all steps, from the earliest due time on.
    stages = " ".join(f"WHEN '{step.ready}' THEN '{step.stage}'" for step in cycle.steps)
    ready = ", ".join(f"'{state}'" for state in sorted(cycle.ready))
    parts.append(f"""
        SELECT stage, what, count(*), min(since), mode() WITHIN GROUP (ORDER BY reason) FROM (
          SELECT CASE {c["status"]}::text {stages} END AS stage,
                 CASE WHEN {c["due_at"]} <= now() THEN 'ready due'
                      WHEN {c["change_action"]} IN ('retry', 'rescue', 'snooze') THEN 'backing_off'
                      ELSE 'later' END AS what, {c["due_at"]} AS since, {c["change_reason"]} AS reason
            FROM {t.name} WHERE {c["status"]} IN ({ready}) AND {c["due_at"]} IS NOT NULL
           ORDER BY {c["due_at"]} LIMIT {MAX_COUNTED + 1}) AS soon GROUP BY stage, what""")
    return " UNION ALL ".join(parts)


async def _count_jobs(conn: Raw, t: JobTable) -> dict[str, dict[str, Any]]:
    """Return the counts of one table by stage."""
    cursor = await conn.execute(f"SELECT *, now() FROM ({_counts_sql(t)}) AS counts (stage, what, n, since, reason)")
    found: dict[str, dict[str, Any]] = {step.stage: {} for step in t.lifecycle.steps}
    for stage, what, n, since, reason, now in await cursor.fetchall():
        found[stage][what] = (n, since, reason)
        found[stage]["now"] = now
    looked = sum(
        one[what][0] for one in found.values() for what in ("ready due", "backing_off", "later") if what in one
    )
    for one in found.values():
        one["cut"] = looked > MAX_COUNTED  # later due times were not read, for any stage
    return found


def _with_oldest(view: StageView, oldest: OldestWait | None) -> StageView:
    """Return a stage with more ready jobs than are counted, with the wait that is found by its index."""
    if oldest is None or "oldest_wait" not in view.more_than:
        return view
    more = [name for name in view.more_than if name != "oldest_wait" or oldest.is_least]
    return replace(view, oldest_wait=oldest.waited, more_than=more)


def _exact(cycle: Lifecycle, step: Step, counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Return the counts of a stage by those of all stages and states. Pure.

    The last step of a table has all completed jobs, also those that came to a good end from a wait of another step.
    """
    states = counts.get(step.stage, {})
    groups = {
        "all_ready": {step.ready},
        "running": {step.running},
        "waiting": cycle.waiting.intersection(cycle.states_of(step)),
        "failed": cycle.bad,
        "cancelled": cycle.neutral,
    }
    exact = {name: max(sum(states.get(state, 0) for state in group), 0) for name, group in groups.items()}
    if step is cycle.steps[-1]:
        ended = (counts.get(one.stage, {}).get(state, 0) for one in cycle.steps for state in cycle.good)
        exact["completed"] = max(sum(ended), 0)
    return exact


async def _count_attempts(conn: Raw) -> dict[str, dict[str, Any]]:
    """Return by stage the recent failed attempts with their reasons, and the completions before the last step."""
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(
        f"""SELECT s.name AS stage, failed.n AS failing, failed.reasons, done.n AS done
              FROM runtime.stages AS s
             CROSS JOIN LATERAL (
               SELECT count(*) AS n,
                      (array_agg(change_reason ORDER BY created_at DESC))[:{MAX_REASONS_READ}] AS reasons FROM (
                 SELECT t.change_reason, t.created_at FROM runtime.transitions AS t
                  WHERE t.stage = s.name AND t.created_at > now() - %(recently)s AND t.{FAILED_ATTEMPTS}
                    AND t.old_state = s.running ORDER BY t.created_at DESC LIMIT {MAX_COUNTED + 1}) AS few) AS failed
             CROSS JOIN LATERAL (
               SELECT count(*) AS n FROM (
                 SELECT FROM runtime.transitions AS t
                  WHERE t.stage = s.name AND t.created_at > now() - interval '1 minute'
                    AND t.change_action = 'complete' AND lower(t.new_state::text) <> 'completed'
                  ORDER BY t.created_at DESC LIMIT {MAX_COUNTED + 1}) AS few) AS done""",
        {"recently": RECENT_PERIOD},
    )
    return {row["stage"]: row for row in await cursor.fetchall()}


def _view(stage: dict[str, Any], found: dict[str, Any], attempts: dict[str, Any]) -> StageView:
    more: list[str] = []

    def number(name: str, *whats: str) -> int:
        n: int = sum(found[what][0] for what in whats if what in found)
        if n > MAX_COUNTED or (found.get("cut") and not {"backing_off", "later"}.isdisjoint(whats)):
            more.append(name)
        return min(n, MAX_COUNTED)

    waits = [found[what][1] for what in ("ready", "ready due", "dispatched") if what in found and found[what][1]]
    exact: Mapping[str, int] = found.get("exact", {})
    counts: dict[str, Any] = {name: number(name, name) for name in ("backing_off", "later")}
    counts |= {name: exact.get(name, 0) for name in ("running", "waiting", "failed", "cancelled")}
    ready = number("ready", "ready", "ready due", "dispatched")
    if "ready" in more:
        more.append("oldest_wait")  # it covers only the counted jobs
        if not found.get("cut"):
            more.remove("ready")
            ready = max(exact["all_ready"] - counts["backing_off"] - counts["later"], ready)
    failing = attempts.get("failing") or 0
    if failing > MAX_COUNTED:
        more.append("failing_attempts")
    return StageView(
        stage=stage["stage"],
        ready=ready,
        **counts,
        backing_off_reason=found["backing_off"][2] if "backing_off" in found else None,
        completed=exact.get("completed"),
        oldest_wait=max(found["now"] - min(waits), timedelta()) if waits else None,
        done_last_minute=_per_minute(found) if "done" in found else attempts.get("done") or 0,
        failing_attempts=min(failing, MAX_COUNTED),
        failing_reason=_most_common(attempts.get("reasons") or ()),
        slots=stage["slots"],
        limit_at_most=stage["limit_at_most"],
        paused_at=stage["paused_at"],
        paused_by=stage["paused_by"],
        more_than=sorted(more),
    )


def _per_minute(found: dict[str, Any]) -> int:
    """Return the jobs done in the last minute; if there were more than are counted, extrapolate from their rate."""
    n, since, looked_at = found["done"]
    if int(looked_at) <= MAX_COUNTED:
        return int(n)
    seconds: float = max((found["now"] - since).total_seconds(), 0.001)
    return int(n * 60 / seconds)


def _most_common(reasons: Iterable[str | None]) -> str | None:
    """Return the most common reason (by cause), in the words of the newest attempt."""
    known = [reason for reason in reasons if reason]
    if not known:
        return None
    cause = Counter(map(cause_of, known)).most_common(1)[0][0]
    return next(reason for reason in known if cause_of(reason) == cause)
