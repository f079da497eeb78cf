"""Rescue jobs after their worker fell silent or their deadline passed; prune old terminal jobs."""

from datetime import timedelta
from functools import cache

from models.lifecycle import Job
from workers.runtime.database import Raw
from workers.runtime.handler.registry import Stage
from workers.runtime.store.leading import leads
from workers.runtime.store.tables import JobTable, job_table

# A live worker ends a job at its deadline itself. The rescue ends it only if the worker did not within this time.
DEADLINE_MARGIN = timedelta(seconds=10)
# No worker has a longer lease. A longer one in a row, also infinity or NaN, counts as this: it must not stop the rescue
# of other workers' jobs.
MAX_LEASE_SECONDS = 86_400
# A CHECK allows no higher version. The rescue skips a row with this version, so that it can free the others.
MAX_VERSION = 1_999_999_999

# In seconds. Without the inner bound, 1,024 rescues would overflow a float.
_BACKOFF = "least(300, 2 ^ least(j.{}, 9))"


@cache
def _rescue_sql(t: JobTable, stage: Stage, *, fenced: bool) -> str:
    c = t.column
    # The condition refers to each lost run, so that the lock is taken only if there is one.
    fence = f"WHERE CASE WHEN lost.id IS NOT NULL THEN {leads()} END" if fenced else ""
    # After the first rescue a job runs again at once. A job that kills its worker each time waits longer every time.
    return f"""
        WITH lost AS (
          SELECT j.{c["id"]} AS id, w.id IS NULL AND j.{c["lease_owner"]} IS NOT NULL AS orphaned
            FROM {t.name} AS j
            LEFT JOIN runtime.workers AS w ON w.id = j.{c["lease_owner"]}
                  AND greatest(w.heartbeat_at, now() - %(led_for)s)
                      > now() - make_interval(secs => greatest(least(w.lease_seconds, {MAX_LEASE_SECONDS}), 0))
           WHERE j.{c["status"]} = '{stage.step.running}' AND j.{c["dispatched_at"]} IS NOT NULL
             AND j.{c["completed_at"]} IS NULL AND j.{c["version"]} < {MAX_VERSION}
             AND ((w.id IS NULL AND j.{c["lease_owner"]} IS NOT NULL)
                  OR (j.{c["deadline_at"]} < now() - %(margin)s AND %(led_for)s > %(margin)s))
           LIMIT 1000 FOR UPDATE OF j SKIP LOCKED)
        UPDATE {t.name} AS j
           SET {c["status"]} =
                 (CASE WHEN spent THEN '{t.lifecycle.failed}' ELSE '{stage.step.ready}' END)::{t.status_type},
               {c["version"]} = j.{c["version"]} + 1,
               {c["retry_count"]} = least(j.{c["retry_count"]}::bigint + 1, j.{c["max_retries"]})::int,
               {c["completed_at"]} = CASE WHEN spent THEN now() END,
               {c["started_at"]} = CASE WHEN spent THEN j.{c["started_at"]} END,
               {c["lease_owner"]} = CASE WHEN spent THEN j.{c["lease_owner"]} END,
               {c["due_at"]} = CASE WHEN NOT spent AND j.{c["retry_count"]} > 0
                                    THEN now() + make_interval(secs => {_BACKOFF.format(c["retry_count"])}) END,
               {c["progress"]} = CASE WHEN spent THEN {t.progress_at_end} ELSE 0 END,
               {c["dispatched_at"]} = NULL, {c["deadline_at"]} = NULL, {c["updated_at"]} = now(),
               {c["error_message"]} = reason, {c["change_action"]} = 'rescue', {c["change_reason"]} = reason
          FROM (SELECT lost.id, k.{c["retry_count"]} >= k.{c["max_retries"]} AS spent,
                       CASE WHEN orphaned THEN 'worker fell silent' ELSE 'deadline passed' END AS reason
                  FROM lost JOIN {t.name} AS k ON k.{c["id"]} = lost.id {fence}) AS l
         WHERE j.{c["id"]} = l.id
        RETURNING j.{c["id"]}"""


async def rescue_expired(conn: Raw, stage: Stage, *, led_for: timedelta, term: int | None = None) -> int:
    """Rescue the runs that nobody can finish; return how many (≤ 1,000).

    A job goes back to ready, or to failed if it has no attempt left.

    Only an expired lease or a passed deadline counts, never the age of a run. Each rescue costs one attempt.
    ``led_for`` is how long the caller has been leading. A lease counts as expired only if the caller has led for longer
    than the lease. So a live worker loses no job because Postgres was away, when it could neither write a heartbeat nor
    settle.
    The leader passes its ``term``: after that has ended, nothing is rescued.
    """
    sql = _rescue_sql(job_table(stage.model), stage, fenced=term is not None)
    values = {"margin": DEADLINE_MARGIN, "led_for": led_for, "term": term}
    return len(await (await conn.execute(sql, values)).fetchall())


@cache
def _prune_sql(t: JobTable) -> str:
    c = t.column
    terminal = ", ".join(f"'{state}'" for state in sorted(t.lifecycle.terminal))
    return f"""
        DELETE FROM {t.name} AS j WHERE j.{c["id"]} = ANY (ARRAY(
          SELECT i.{c["id"]} FROM {t.name} AS i
           WHERE i.{c["completed_at"]} < now() - %(retention)s AND i.{c["status"]} IN ({terminal})
           ORDER BY i.{c["completed_at"]} LIMIT %(batch)s FOR UPDATE SKIP LOCKED))
        RETURNING j.{c["id"]}"""


async def prune(conn: Raw, model: type[Job], *, batch: int = 1_000) -> int:
    """Delete one batch of terminal jobs that are older than their table's retention; return how many."""
    t = job_table(model)
    cursor = await conn.execute(_prune_sql(t), {"retention": t.lifecycle.retention, "batch": batch})
    return len(await cursor.fetchall())
