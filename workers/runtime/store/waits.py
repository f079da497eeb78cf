"""How long a job has waited, or how many runs got it no further, from its history; and wake jobs that wait no more.

The history is read only while something is away.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import NamedTuple
from uuid import UUID

from models.lifecycle import Job
from workers.runtime.database import Raw
from workers.runtime.handler.endurance import FOUND, NO_PROGRESS, IdleRuns, Waited
from workers.runtime.store.leading import if_leading
from workers.runtime.store.tables import JobTable, job_table

# The jobs of one slice: a statement that locks many rows for long would hold up others.
SLICE = 10_000

_WAITED = """
    SELECT extract(epoch FROM now() - min(h.created_at) FILTER (WHERE h.version_to > r.version))::float8,
           extract(epoch FROM now() - max(h.created_at))::float8,
           count(*) FILTER (WHERE strpos(h.change_reason, %(found)s) > 0)
      FROM runtime.transitions AS h
     CROSS JOIN (SELECT coalesce(max(version_to), 0) AS version FROM runtime.transitions
                  WHERE job_id = %(id)s AND change_action = 'retry') AS r
     WHERE h.job_id = %(id)s AND h.stage = %(stage)s AND h.change_action = 'snooze' AND h.change_reason LIKE %(like)s"""


async def read_waited(conn: Raw, stage: str, job_id: UUID, *, like: str) -> Waited | None:
    """Return how long a job has waited for reasons ``like`` this; None if it has not.

    Only waits after its last retry count for the first wait: a retried job may wait for the full time again.
    """
    cursor = await conn.execute(_WAITED, {"id": job_id, "stage": stage, "like": like, "found": FOUND})
    row = await cursor.fetchone()
    if row is None or row[1] is None:
        return None
    last = timedelta(seconds=row[1])
    return Waited(first=timedelta(seconds=row[0]) if row[0] is not None else timedelta(), last=last, found=row[2])


_IDLE_RUNS = """
    WITH h AS (
      SELECT version_to, created_at, change_action = 'snooze' AND strpos(change_reason, %(idle)s) > 0 AS is_idle,
             change_action
        FROM runtime.transitions WHERE job_id = %(id)s AND stage = %(stage)s)
    SELECT count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 FROM h
     WHERE is_idle AND version_to > (SELECT coalesce(max(version_to), 0) FROM h
                                      WHERE is_idle IS NOT TRUE AND change_action NOT IN ('claim', 'release'))"""


async def idle_runs(conn: Raw, stage: str, job_id: UUID) -> IdleRuns:
    """Return how many runs in a row got this job no further: since its last retry, rescue or run with progress."""
    cursor = await conn.execute(_IDLE_RUNS, {"id": job_id, "stage": stage, "idle": NO_PROGRESS})
    row = await cursor.fetchone()
    return IdleRuns(row[0], timedelta(seconds=row[1])) if row else IdleRuns()


class Woken(NamedTuple):
    """What one slice has woken, and where the next one goes on; ``after`` is None when no job is left."""

    jobs: int
    after: tuple[datetime, UUID] | None


@cache
def _wake_snoozed_sql(t: JobTable, states: tuple[str, ...], *, any_cause: bool, fenced: bool) -> str:
    c = t.column
    ready = ", ".join(f"'{state}'" for state in states)
    every = ", ".join(f"'{state}'" for state in sorted(t.lifecycle.ready))
    found = "true" if any_cause else f"i.{c['change_reason']} ILIKE ANY (%(causes)s::text[])"
    waits = f"i.{c['change_action']} = 'snooze' AND i.{c['status']} IN ({ready}) AND {found}"
    # The slice walks the index of due times; its condition names the ready states of the whole table.
    return f"""
        WITH slice AS MATERIALIZED (
          SELECT i.{c["id"]} AS id, i.{c["due_at"]} AS due_at, {waits} AS waits FROM {t.name} AS i
           WHERE i.{c["status"]} IN ({every}) AND i.{c["due_at"]} >= %(due)s
             AND (i.{c["due_at"]}, i.{c["id"]}) > (%(due)s, %(id)s)
           ORDER BY i.{c["due_at"]}, i.{c["id"]} LIMIT %(most)s),
        held AS (
          SELECT i.{c["id"]} AS id FROM {t.name} AS i WHERE i.{c["id"]} = ANY (ARRAY(SELECT id FROM slice WHERE waits))
             AND i.{c["due_at"]} IS NOT NULL AND i.{c["dispatched_at"]} IS NULL AND {waits} FOR UPDATE SKIP LOCKED),
        woken AS (
          UPDATE {t.name} AS j SET {c["due_at"]} = NULL, {c["updated_at"]} = now()
           WHERE j.{c["id"]} = ANY ({if_leading("SELECT id FROM held", fenced=fenced)}) RETURNING 1)
        SELECT (SELECT count(*) FROM woken), count(*), (array_agg(due_at ORDER BY due_at DESC, id DESC))[1],
               (array_agg(id ORDER BY due_at DESC, id DESC))[1] FROM slice"""


async def wake_snoozed(
    conn: Raw,
    model: type[Job],
    *,
    stages: Sequence[str] | None = None,
    causes: Sequence[str] | None = None,
    after: tuple[datetime, UUID] | None = None,
    most: int = SLICE,
    term: int | None = None,
) -> Woken:
    """Let snoozed jobs of ``model`` go on at once: one slice of at most ``most`` jobs, in the order of their due times.

    ``stages`` and ``causes`` choose them: a snooze whose reason contains one of ``causes``, in any case of letters;
    None chooses all. Call it again with ``after`` of the last answer until that is None. Jobs that wait for another
    reason, for example after a failed attempt, stay as they are. The gates spread the woken jobs.
    """
    t = job_table(model)
    states = tuple(sorted(step.ready for step in t.lifecycle.steps if stages is None or step.stage in stages))
    if not states:
        return Woken(0, None)
    due, id_ = after or (datetime(1, 1, 2, tzinfo=UTC), UUID(int=0))
    sql = _wake_snoozed_sql(t, states, any_cause=causes is None, fenced=term is not None)
    patterns = [f"%{_literal_pattern(cause)}%" for cause in causes or ()]
    cursor = await conn.execute(sql, {"causes": patterns, "due": due, "id": id_, "most": most, "term": term})
    row = await cursor.fetchone()
    assert row is not None
    return Woken(row[0], (row[2], row[3]) if row[1] >= most else None)


async def wake_all_snoozed(
    conn: Raw, models: Sequence[type[Job]], *, stages: Sequence[str] | None = None, causes: Sequence[str] | None = None
) -> int:
    """Let all such jobs of ``models`` go on, slice by slice, each in its own transaction; return how many."""
    woken = 0
    for model in models:
        after: tuple[datetime, UUID] | None = None
        while True:
            slice_ = await wake_snoozed(conn, model, stages=stages, causes=causes, after=after)
            woken += slice_.jobs
            if (after := slice_.after) is None:
                break
    return woken


def _literal_pattern(text: str) -> str:
    """Return ``text`` for LIKE, without any wildcard."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
