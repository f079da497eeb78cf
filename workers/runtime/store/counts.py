"""Fold what statements changed into the counts of jobs, and read those. The only statements on the tables of counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg.rows import class_row

from workers.runtime.database import Raw
from workers.runtime.store.leading import leads

# One statement: a death between its parts is impossible, and readers see either all of it or nothing. CASE evaluates in
# this order: without a delta, no lock is taken.
_FOLD = f"""
    WITH oldest AS MATERIALIZED (
      SELECT ARRAY(SELECT id FROM runtime.count_deltas ORDER BY id LIMIT %(limit)s) AS ids),
    gone AS (
      DELETE FROM runtime.count_deltas WHERE id = ANY (
             (SELECT CASE WHEN ids <> '{{}}' THEN CASE WHEN {leads()} THEN ids END END FROM oldest)::bigint[])
      RETURNING stage, old_state, new_stage, new_state, action, jobs, moved_at),
    changed AS (
      INSERT INTO runtime.stage_counts AS c (stage, state, jobs)
      SELECT stage, state, sum(jobs) FROM (
             SELECT stage, old_state AS state, -jobs::bigint AS jobs FROM gone WHERE old_state IS NOT NULL
              UNION ALL SELECT new_stage, new_state, jobs FROM gone WHERE new_state IS NOT NULL) AS moved
       GROUP BY stage, state HAVING sum(jobs) <> 0
      ON CONFLICT (stage, state) DO UPDATE SET jobs = c.jobs + excluded.jobs),
    actions AS (
      INSERT INTO runtime.action_counts AS c (stage, action, jobs)
      SELECT stage, action, sum(jobs) FROM gone WHERE action NOT IN ('recount', 'delete') GROUP BY stage, action
      ON CONFLICT (stage, action) DO UPDATE SET jobs = c.jobs + excluded.jobs),
    minutes AS (
      INSERT INTO runtime.minute_counts AS c (minute, stage, old_state, new_state, action, jobs)
      SELECT date_trunc('minute', moved_at, 'UTC'), stage, coalesce(old_state, ''), coalesce(new_state, ''), action,
             sum(jobs) FROM gone WHERE action <> 'recount' GROUP BY 1, 2, 3, 4, 5
      ON CONFLICT (minute, stage, old_state, new_state, action) DO UPDATE SET jobs = c.jobs + excluded.jobs)
    SELECT count(*)::int FROM gone"""


@dataclass(frozen=True, slots=True)
class StateCount:
    """How many jobs one stage has in one state."""

    stage: str
    state: str
    jobs: int


async def fold_counts(conn: Raw, *, term: int, limit: int) -> int:
    """Add up to ``limit`` deltas to the counts and delete them; return how many. Nothing unless ``term`` leads."""
    cursor = await conn.execute(_FOLD.encode(), {"term": term, "limit": limit})
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def read_counts(conn: Raw) -> list[StateCount]:
    """Return the number of jobs by stage and state, exact in one snapshot; states without jobs are left out."""
    cursor = conn.cursor(row_factory=class_row(StateCount))
    await cursor.execute("SELECT stage, state, jobs FROM runtime.counts ORDER BY stage, state")
    return await cursor.fetchall()


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodCounts:
    """What happened to the jobs of one stage in one period, which begins at ``begins_at``.

    - ``completed``: runs that completed, also those after which their job goes on in another stage.
    - ``failed``, ``cancelled``: jobs that came to a bad or to a neutral end, whoever ended them.
    - ``retried``, ``rescued``, ``snoozed``, ``released``: runs after which their job was ready again.
    - ``expired``: waits whose deadline passed; ``decided``: those that somebody decided.
    """

    begins_at: datetime
    stage: str
    enqueued: int
    started: int
    completed: int
    failed: int
    cancelled: int
    retried: int
    rescued: int
    snoozed: int
    released: int
    expired: int
    decided: int


_ACTIONS = {
    "enqueued": "enqueue",
    "started": "claim",
    "completed": "complete",
    "retried": "retry",
    "rescued": "rescue",
    "snoozed": "snooze",
    "released": "release",
    "expired": "expire",
    "decided": "decide",
}
_OF_PERIODS = f"""
    SELECT date_bin(%(period)s, m.minute, '2000-01-01 00:00:00+00') AS begins_at, m.stage,
           {
    ", ".join(
        f"coalesce(sum(m.jobs) FILTER (WHERE m.action = '{action}'), 0)::bigint AS {name}"
        for name, action in _ACTIONS.items()
    )
},
           coalesce(sum(m.jobs) FILTER (WHERE m.new_state = l.terminal[2] OR l.ends ->> m.new_state = 'bad'),
                    0)::bigint AS failed,
           coalesce(sum(m.jobs) FILTER (WHERE m.new_state = l.terminal[3] OR l.ends ->> m.new_state = 'neutral'),
                    0)::bigint AS cancelled
      FROM runtime.minute_counts AS m JOIN runtime.stages AS s ON s.name = m.stage
      JOIN runtime.lifecycles AS l USING (table_name)
     WHERE m.minute >= %(since)s AND m.minute < %(until)s AND (%(stages)s::text[] IS NULL OR m.stage = ANY (%(stages)s))
     GROUP BY 1, 2 ORDER BY 1, 2"""


async def read_periods(
    conn: Raw, *, since: datetime, until: datetime, period: timedelta, stages: Sequence[str] | None = None
) -> list[PeriodCounts]:
    """Return what happened in each period of whole minutes; periods without events are left out.

    The last second or two may not be folded yet. Minutes are kept for eight days.
    """
    cursor = conn.cursor(row_factory=class_row(PeriodCounts))
    values = {"since": since, "until": until, "period": period, "stages": None if stages is None else list(stages)}
    await cursor.execute(_OF_PERIODS.encode(), values)
    return await cursor.fetchall()


async def recount_jobs(conn: Raw) -> int:
    """Count every job and correct the counts that differ; return how many differed. Reads whole tables."""
    row = await (await conn.execute("SELECT runtime.recount_jobs()")).fetchone()
    return int(row[0]) if row else 0
