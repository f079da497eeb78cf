"""Check every job against its history. This reads whole tables: people and tests may use it, no loop may."""

from dataclasses import dataclass
from uuid import UUID

from psycopg.rows import class_row

from workers.runtime.database import Raw


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryCheck:
    """The jobs of one stage compared with their histories. The violations and ``miscounted`` must all be 0.

    - ``gone``: jobs that have a history but no row.
    - ``waiting``: jobs that wait for a worker or for a decision.
    - ``completed``, ``failed``, ``cancelled``: good, bad and neutral ends of a domain count here.
    - ``ends``: transitions into a terminal state; ``reopened``: transitions out of one (an operator's retry).
    - ``ended_twice``: jobs that ended more often, or less often, than their start and their retries allow.
    - ``gaps``: versions that do not follow each other or begin above 1.
    - ``duplicates``: versions written twice.
    - ``mismatched``: rows with another state or version than the end of their history.
    - ``unrecorded``: rows without a history.
    - ``lost``: jobs that are gone and have a history without an end.
    - ``suspects``: the first ids with a violation.
    - ``miscounted``: by how many jobs ``runtime.counts`` differs from the rows. It is no violation of a job.
    """

    stage: str
    jobs: int
    gone: int
    waiting: int
    running: int
    completed: int
    failed: int
    cancelled: int
    transitions: int
    ends: int
    reopened: int
    ended_twice: int
    gaps: int
    duplicates: int
    mismatched: int
    unrecorded: int
    lost: int
    suspects: list[UUID]
    miscounted: int

    @property
    def violations(self) -> int:
        return self.ended_twice + self.gaps + self.duplicates + self.mismatched + self.unrecorded + self.lost


# If a job's table is gone, no row says which states were terminal: then the action of the last transition decides.
# A history may begin late only if its earlier months were dropped: then the job is older than the first month kept.
_VERIFY = """
WITH recorded AS (
  SELECT t.job_id, l.table_name, t.stage, t.old_state, t.new_state, t.version_from, t.version_to,
         coalesce(t.new_state = ANY (l.terminal), t.change_action IN ('complete', 'fail', 'cancel', 'expire')
                  OR lower(t.new_state) IN ('completed', 'failed', 'cancelled')) AS is_end,
         t.old_state = ANY (l.terminal) AS is_reopened, l.terminal IS NOT NULL AS is_known,
         lag(t.version_to) OVER steps AS version_before, lag(t.new_state) OVER steps AS state_before,
         lead(t.version_to) OVER steps IS NULL AS newest
    FROM runtime.transitions AS t
    LEFT JOIN runtime.stages AS s ON s.name = t.stage LEFT JOIN runtime.lifecycles AS l USING (table_name)
  -- Two tables may have a job with the same id.
  WINDOW steps AS (PARTITION BY t.job_id, l.table_name ORDER BY t.version_to, t.created_at)),
histories AS (
  SELECT job_id, table_name, max(stage) FILTER (WHERE newest) AS stage, max(new_state) FILTER (WHERE newest) AS state,
         max(version_to) AS version, count(*) AS transitions,
         bool_or(is_end) FILTER (WHERE newest) AS ended, bool_or(is_known) AS is_known,
         count(*) FILTER (WHERE is_end AND is_known) AS ends,
         count(*) FILTER (WHERE is_reopened) AS reopened,
         count(*) FILTER (WHERE version_to = version_before) AS duplicates,
         count(*) FILTER (WHERE version_before IS NOT NULL AND version_to <> version_before
                            AND (version_to <> version_before + 1 OR version_from IS DISTINCT FROM version_before
                                 OR old_state IS DISTINCT FROM state_before)) AS gaps,
         bool_or(version_before IS NULL AND (version_from IS NOT NULL OR version_to <> 1)) AS begins_late
    FROM recorded GROUP BY job_id, table_name),
judged AS (
  SELECT coalesce(h.job_id, j.id) AS id, coalesce(j.stage, h.stage) AS stage, j.id IS NOT NULL AS present,
         coalesce(j.status, h.state) AS state, h.transitions, h.ends, h.reopened, h.duplicates,
         (h.ends - h.reopened <> h.ended::int AND h.is_known AND NOT h.begins_late)::int AS ended_twice,
         h.gaps + (h.begins_late AND coalesce(j.created_at, uuid_extract_timestamp(h.job_id), now())
                   >= date_trunc('month', (SELECT min(created_at) FROM runtime.transitions), 'UTC'))::int AS gaps,
         (j.id IS NOT NULL AND (j.version <> h.version OR j.status <> h.state))::int AS mismatched,
         (h.job_id IS NULL)::int AS unrecorded, (j.id IS NULL AND NOT h.ended)::int AS lost
    FROM histories AS h FULL JOIN runtime.jobs AS j ON j.id = h.job_id AND j.table_name = h.table_name),
miscounts AS (
  SELECT stage, sum(abs(jobs)) AS wrong
    FROM (SELECT stage, state, sum(jobs) AS jobs
            FROM (SELECT stage, status AS state, count(*) AS jobs FROM runtime.jobs GROUP BY stage, status
                   UNION ALL SELECT stage, state, -jobs FROM runtime.counts) AS both_counts
           GROUP BY stage, state HAVING sum(jobs) <> 0) AS differing
   GROUP BY stage)
SELECT coalesce(d.stage, m.stage) AS stage,
       count(*) FILTER (WHERE present)::int AS jobs, count(*) FILTER (WHERE NOT present)::int AS gone,
       count(*) FILTER (WHERE present AND (d.state = s.ready OR life.waits ? d.state))::int AS waiting,
       count(*) FILTER (WHERE present AND d.state = s.running)::int AS running,
       count(*) FILTER (WHERE d.state = life.terminal[1] OR life.ends ->> d.state = 'good')::int AS completed,
       count(*) FILTER (WHERE d.state = life.terminal[2] OR life.ends ->> d.state = 'bad')::int AS failed,
       count(*) FILTER (WHERE d.state = life.terminal[3] OR life.ends ->> d.state = 'neutral')::int AS cancelled,
       coalesce(sum(d.transitions), 0)::int AS transitions, coalesce(sum(d.ends), 0)::int AS ends,
       coalesce(sum(reopened), 0)::int AS reopened, coalesce(sum(ended_twice), 0)::int AS ended_twice,
       coalesce(sum(gaps), 0)::int AS gaps, coalesce(sum(duplicates), 0)::int AS duplicates,
       coalesce(sum(mismatched), 0)::int AS mismatched, coalesce(sum(unrecorded), 0)::int AS unrecorded,
       coalesce(sum(lost), 0)::int AS lost,
       coalesce((array_agg(d.id ORDER BY d.id) FILTER (
         WHERE ended_twice > 0 OR gaps > 0 OR duplicates > 0 OR mismatched > 0 OR unrecorded > 0 OR lost > 0
       ))[1:20], '{}') AS suspects, coalesce(max(m.wrong), 0)::int AS miscounted
  FROM judged AS d FULL JOIN miscounts AS m ON m.stage = d.stage
  LEFT JOIN runtime.stages AS s ON s.name = coalesce(d.stage, m.stage)
  LEFT JOIN runtime.lifecycles AS life ON life.table_name = s.table_name
 WHERE %(stage)s::text IS NULL OR coalesce(d.stage, m.stage) = %(stage)s
 GROUP BY 1 ORDER BY 1"""


async def verify_history(conn: Raw, *, stage: str | None = None) -> list[HistoryCheck]:
    """Check every job against its transitions, in one snapshot; return the counts per stage. Reads whole tables."""
    cursor = conn.cursor(row_factory=class_row(HistoryCheck))
    await cursor.execute(_VERIFY, {"stage": stage})
    return await cursor.fetchall()
