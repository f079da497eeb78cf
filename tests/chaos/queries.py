"""The statements of the checker. Each examines a whole run at once and returns one verdict.

They read two temporary tables: ``steps`` has every transition with the one before and the one after; ``held`` has every
job that still has a row. A verdict has the number of examined things, the number of wrong ones, and their first ids.
"""

SETTINGS = """
SELECT set_config(name, value, true)
  FROM (VALUES ('enable_seqscan', 'on'), ('enable_hashjoin', 'on'), ('enable_mergejoin', 'on'), ('jit', 'off'),
               ('enable_sort', 'on'), ('enable_bitmapscan', 'on'), ('work_mem', '128MB')) AS pins(name, value)
"""

STEPS = """
CREATE TEMPORARY TABLE steps ON COMMIT DROP AS
SELECT t.job_id, t.version_to, t.created_at AS at, t.stage, t.new_state, t.changed_by, t.change_action AS action,
       s.table_name,
       CASE WHEN t.old_state IS NULL THEN (t.new_state, t.version_to) IS NOT DISTINCT FROM (l.initial::text, 1)
            ELSE coalesce(t.old_state || '>' || t.new_state = ANY (l.transitions), false) END AS legal,
       coalesce(t.new_state = s.running AND t.old_state = s.ready, false) AS claims,
       coalesce(t.old_state = s.running, false) AS ends_run,
       coalesce(t.old_state = s.running AND (t.new_state = s.done OR l.waits ? t.new_state), false) AS completes,
       coalesce(t.new_state = ANY (l.terminal), false) AS ends_job,
       t.changed_by IS NOT DISTINCT FROM lag(t.changed_by) OVER job AS by_the_same,
       lag(t.changed_by) OVER job LIKE 'worker:%' AS after_worker,
       CASE WHEN t.change_action = 'rescue' THEN lag(t.changed_by) OVER job END AS rescued_from,
       CASE WHEN t.change_reason = 'deadline passed' THEN lag(t.created_at) OVER job END AS overdue_since,
       lead(t.created_at) OVER job AS after_at, lead(t.version_to) OVER job IS NULL AS newest
  FROM runtime.transitions AS t
  LEFT JOIN runtime.stages AS s ON s.name = t.stage LEFT JOIN runtime.lifecycles AS l USING (table_name)
WINDOW job AS (PARTITION BY t.job_id ORDER BY t.version_to, t.created_at)
"""

HELD = """
CREATE TEMPORARY TABLE held ON COMMIT DROP AS
SELECT j.id, j.table_name, j.stage, j.status, j.wait_reason, j.due_at, j.completed_at IS NOT NULL AS ended,
       j.retry_count, j.max_retries, j.idempotency_key, j.status = s.running AS running
  FROM runtime.jobs AS j LEFT JOIN runtime.stages AS s ON s.name = j.stage
"""

ANALYZE = "ANALYZE steps, held"

VERDICT = """
SELECT count(*)::int, count(*) FILTER (WHERE bad)::int,
       coalesce((array_agg(id::text ORDER BY id::text) FILTER (WHERE bad))[1:10], '{}') FROM judged
"""

# A job without a row is correct only if its history says that it was in that table and had ended: it was pruned.
NONE_MISSING = f"""
WITH judged AS (
  SELECT c.id, h.id IS NULL AND (n.job_id IS NULL OR NOT n.ends_job)
               OR coalesce(h.table_name, n.table_name) IS DISTINCT FROM s.table_name AS bad
    FROM unnest(%(ids)s::uuid[], %(stages)s::text[]) AS c(id, stage) LEFT JOIN runtime.stages AS s ON s.name = c.stage
    LEFT JOIN held AS h ON h.id = c.id LEFT JOIN steps AS n ON n.job_id = c.id AND n.newest)
{VERDICT}"""

# Jobs that are paused, due later, backing off, snoozed, at their limit or without a worker may wait without limit.
NONE_STUCK = f"""
WITH judged AS (
  SELECT h.id, NOT h.ended AND now() - greatest(n.at, h.due_at) > %(patience)s
               AND (h.wait_reason IS NULL OR h.wait_reason = ANY (%(moving)s)) AS bad
    FROM held AS h LEFT JOIN steps AS n ON n.job_id = h.id AND n.newest)
{VERDICT}"""

ONE_JOB_PER_KEY = f"""
WITH judged AS (
  SELECT coalesce(h.table_name, '') || ' ' || k.key AS id, count(h.id) > 1 AS bad
    FROM (SELECT unnest(%(keys)s::text[]) AS key
           UNION SELECT idempotency_key FROM held WHERE idempotency_key IS NOT NULL) AS k
    LEFT JOIN held AS h ON h.idempotency_key = k.key GROUP BY h.table_name, k.key)
{VERDICT}"""

LEGAL = f"""
WITH judged AS (SELECT job_id AS id, NOT legal AS bad FROM steps)
{VERDICT}"""

# Any worker may record a cancel by a person (Revoke in Flower). Every other end of a run is recorded by its own worker.
SETTLED_BY_CLAIMANT = f"""
WITH judged AS (
  SELECT job_id AS id, NOT by_the_same AS bad FROM steps
   WHERE ends_run AND changed_by LIKE 'worker:%%' AND action IS DISTINCT FROM 'cancel')
{VERDICT}"""

# Compare the attempts with the history. If the beginning of a history was dropped, its job cannot be counted.
ATTEMPTS = f"""
WITH spent AS (
  SELECT job_id, count(*) FILTER (WHERE claims) AS claims,
         count(*) FILTER (WHERE action IN ('retry', 'rescue') AND NOT ends_job) AS retries,
         count(*) FILTER (WHERE action IN ('snooze', 'release')) AS unspent,
         count(*) FILTER (WHERE completes AND NOT ends_job) AS steps_done
    FROM steps GROUP BY job_id HAVING min(version_to) = 1),
judged AS (
  SELECT h.id, h.retry_count > h.max_retries OR h.retry_count <> s.retries
               OR s.claims > 1 + h.max_retries + s.unspent + s.steps_done AS bad
    FROM held AS h JOIN spent AS s ON s.job_id = h.id)
{VERDICT}"""

# A worker that recorded a transition within half a lease before a rescue was not silent for a whole lease. A rescue
# proves nothing, and is left out, if its worker was isolated or if any worker may have been isolated.
RESCUES = f"""
WITH rescues AS (
  SELECT job_id, rescued_from, overdue_since, at FROM steps
   WHERE action = 'rescue' AND ends_run
     AND (overdue_since IS NOT NULL OR rescued_from LIKE 'worker:%%' AND NOT EXISTS (
            SELECT FROM unnest(%(since)s::float8[], %(until)s::float8[], %(isolated)s::text[])
                     AS isolated(since, until, worker)
             WHERE to_timestamp(isolated.since) <= at AND to_timestamp(isolated.until) >= at - %(lease)s
               AND coalesce(isolated.worker, rescued_from) = rescued_from))),
lively AS MATERIALIZED (
  SELECT DISTINCT r.rescued_from, r.at
    FROM (SELECT DISTINCT rescued_from, at FROM rescues WHERE overdue_since IS NULL) AS r
    JOIN steps AS s ON s.changed_by = r.rescued_from AND s.at < r.at AND s.at > r.at - %(lease)s / 2),
judged AS (
  SELECT r.job_id AS id, l.at IS NOT NULL OR r.overdue_since >= r.at - %(margin)s AS bad
    FROM rescues AS r LEFT JOIN lively AS l ON l.rescued_from = r.rescued_from AND l.at = r.at)
{VERDICT}"""

# A run is lost if somebody else changed the job, or if a person cancelled it through the same worker (Flower's Revoke
# may reach the process that runs the job), or if the job does not exist any more. A worker logs it once, for its own
# runs only.
CALLED_LOST = f"""
WITH called AS (
  SELECT *, row_number() OVER (PARTITION BY job_id, fence) AS nth
    FROM unnest(%(ids)s::uuid[], %(fences)s::int[], %(said_by)s::text[], %(how)s::text[])
         AS called(job_id, fence, said_by, how)),
found AS (
  SELECT c.*, r.changed_by AS worker, n.job_id IS NOT NULL AS moved,
         n.changed_by = r.changed_by AND NOT (n.action = 'cancel' AND c.job_id = ANY (%(cancelled)s)) AS by_itself,
         EXISTS (SELECT FROM held AS h WHERE h.id = c.job_id) AS held
    FROM called AS c
    LEFT JOIN steps AS r ON r.job_id = c.job_id AND r.version_to = c.fence AND r.claims
    LEFT JOIN steps AS n ON n.job_id = c.job_id AND n.version_to = c.fence + 1),
judged AS (
  SELECT concat_ws(' ', job_id, 'version', fence, how, 'said by', said_by) AS id,
         nth > 1 OR worker IS NULL OR CASE WHEN moved THEN by_itself ELSE held END
         OR min(worker) OVER (PARTITION BY said_by) <> max(worker) OVER (PARTITION BY said_by) AS bad
    FROM found)
{VERDICT}"""

# Runs that others ended while their worker could receive and lived long enough to log it. A claim of an isolated worker
# is left out: its answer may have come too late for the run to begin.
LOST_UNCALLED = f"""
WITH called AS (SELECT DISTINCT * FROM unnest(%(ids)s::uuid[], %(fences)s::int[]) AS called(job_id, fence)),
isolated AS (
  SELECT to_timestamp(since) AS since, to_timestamp(until) AS until, worker
    FROM unnest(%(since)s::float8[], %(until)s::float8[], %(isolated)s::text[]) AS isolated(since, until, worker)),
lives AS (
  SELECT worker, max(until) AS until
    FROM (SELECT changed_by, at FROM steps WHERE changed_by LIKE 'worker:%%'
           UNION ALL SELECT w, to_timestamp(u) FROM unnest(%(living)s::text[], %(spoke)s::float8[]) AS life(w, u))
         AS signs(worker, until) GROUP BY worker),
lost AS (
  SELECT r.job_id, r.version_to AS fence, r.changed_by AS worker, r.at AS claimed_at, n.at AS moved_at
    FROM steps AS n JOIN steps AS r ON r.job_id = n.job_id AND r.version_to = n.version_to - 1 AND r.claims
   WHERE n.ends_run AND n.after_worker
     AND (NOT n.by_the_same OR n.action = 'cancel' AND n.job_id = ANY (%(cancelled)s))),
judged AS (
  SELECT concat_ws(' ', l.job_id, 'version', l.fence, 'run by', l.worker) AS id, c.job_id IS NULL AS bad
    FROM lost AS l JOIN lives USING (worker) LEFT JOIN called AS c USING (job_id, fence)
   WHERE lives.until >= %(within)s + greatest(l.moved_at, (
           SELECT max(d.until) FROM isolated AS d
            WHERE coalesce(d.worker, l.worker) = l.worker AND d.until >= l.moved_at
              AND d.since <= l.moved_at + 3 * %(within)s))
     AND NOT EXISTS (SELECT FROM isolated AS d
                      WHERE coalesce(d.worker, l.worker) = l.worker AND d.until >= l.claimed_at
                        AND d.since <= l.claimed_at + %(begun)s))
{VERDICT}"""

PRUNED = f"""
WITH judged AS (
  SELECT n.job_id AS id, NOT n.ends_job OR n.at > now() - r.retention AND NOT n.job_id = ANY (%(aged)s) AS bad
    FROM steps AS n LEFT JOIN held AS h ON h.id = n.job_id
    JOIN unnest(%(tables)s::text[], %(retentions)s::interval[]) AS r(table_name, retention)
      ON r.table_name = n.table_name
   WHERE n.newest AND h.id IS NULL)
{VERDICT}"""

CANCELLED = f"""
WITH judged AS (
  SELECT c.id, coalesce(n.new_state IS DISTINCT FROM 'cancelled' OR h.status IS DISTINCT FROM n.new_state
                        AND h.id IS NOT NULL, true) AS bad
    FROM unnest(%(cancelled)s::uuid[]) AS c(id)
    LEFT JOIN steps AS n ON n.job_id = c.id AND n.newest LEFT JOIN held AS h ON h.id = c.id)
{VERDICT}"""

TICKS = f"""
WITH judged AS (
  SELECT t.schedule || ' ' || t.scheduled_for AS id,
         count(*) OVER (PARTITION BY t.schedule, t.scheduled_for) > 1
         OR t.job_id IS NOT NULL AND count(*) OVER (PARTITION BY t.job_id) > 1
         OR s.stage IS NOT NULL AND t.job_id IS NULL
         OR t.job_id IS NOT NULL AND h.id IS NULL AND (n.job_id IS NULL OR NOT n.ends_job) AS bad
    FROM runtime.ticks AS t JOIN runtime.schedules AS s ON s.name = t.schedule
    LEFT JOIN held AS h ON h.id = t.job_id LEFT JOIN steps AS n ON n.job_id = t.job_id AND n.newest
   UNION ALL
  SELECT n.job_id::text, NOT EXISTS (SELECT FROM runtime.ticks AS t WHERE t.job_id = n.job_id)
    FROM steps AS n WHERE n.version_to = 1 AND n.changed_by LIKE 'beat:%%')
{VERDICT}"""

# A beat that fired a tick had looked at every schedule at that time.
LOOKS = "SELECT DISTINCT fired_at FROM runtime.ticks ORDER BY fired_at"

TICK_TIMES = """
SELECT s.name, s.cron, s.timezone, s.catch_up, array_agg(t.scheduled_for ORDER BY t.scheduled_for),
       array_agg(t.fired_at ORDER BY t.scheduled_for)
  FROM runtime.schedules AS s JOIN runtime.ticks AS t ON t.schedule = s.name GROUP BY s.name ORDER BY s.name
"""

CALLED_RUNS = """
SELECT job_id, extract(epoch FROM at)::float8, extract(epoch FROM after_at)::float8, changed_by
  FROM steps WHERE claims AND job_id = ANY (%(ids)s)
"""

STAGES_OF = "SELECT DISTINCT job_id, stage FROM steps WHERE claims AND job_id = ANY (%(ids)s)"


def within_limit(table: str, id: str, key: str) -> str:
    """Return the statement that counts the running jobs per key of one stage, from each claim to the next transition.

    If one run ends and another begins at the same moment, they do not overlap. Runs of pruned jobs are left out: their
    key was deleted with the row.
    """
    return f"""
WITH runs AS (
  SELECT s.job_id, j.{key} AS key, s.at, s.after_at FROM steps AS s JOIN {table} AS j ON j.{id} = s.job_id
   WHERE s.claims AND s.stage = %(stage)s),
edges AS (
  SELECT job_id, key, at, 1 AS change FROM runs
   UNION ALL SELECT job_id, key, after_at, -1 FROM runs WHERE after_at IS NOT NULL),
judged AS (
  SELECT job_id AS id, change, sum(change) OVER (PARTITION BY key ORDER BY at, change ROWS UNBOUNDED PRECEDING)
                               > %(at_most)s AND change = 1 AS bad FROM edges)
{VERDICT} WHERE change = 1"""


def effects_once(table: str, act: str, effects: str) -> str:
    """Return the statement that compares the effects in a proving table with the completions in the history."""
    return f"""
WITH done AS (SELECT job_id, count(*) AS times FROM steps WHERE completes GROUP BY job_id),
judged AS (
  SELECT j.id, j.{effects} > coalesce(d.times, 0)
               OR j.{act} = 'write' AND j.{effects} <> coalesce(d.times, 0) AS bad
    FROM {table} AS j LEFT JOIN done AS d ON d.job_id = j.id)
{VERDICT}"""


def result_if_completed(table: str, status: str, result: str) -> str:
    """Return the statement that checks that a job has a result if, and only if, it completed."""
    return f"""
WITH judged AS (SELECT id, ({result} IS NOT NULL) <> ({status} = %(completed)s) AS bad FROM {table})
{VERDICT}"""
