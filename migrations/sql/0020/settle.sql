-- What became of calls: used, refused by the provider, lost, or not made at all.

CREATE FUNCTION llm.settle_calls(p_paths jsonb, p_settles jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
  SET enable_bitmapscan = off SET enable_mergejoin = off SET jit = off AS $$
-- Record what became of reserved calls, each once: a second time changes nothing. Returns of how many it was news, and
-- the budgets that have passed a threshold by it. `as`:
--   settled   what it used, by the provider's count; what that does not say is as estimated
--   failed    the provider said no: nothing is paid, but the request was made
--   orphaned  it may be paid for: its estimate stays, until somebody knows better
--   released  it was never made: it leaves no trace
-- A call that is orphaned can still be settled, or have failed. Windows are corrected in the bucket of the reservation,
-- budgets in its window. p_paths: those of the calls, for the locks that admission takes, in the same order.
DECLARE
  v_ids uuid[];
  v_calls uuid[];
  v_first timestamptz;
  v_last timestamptz;
  v_count integer;
  v_released boolean;
  v_warned jsonb;
  w_limit uuid[];
  w_subject text[];
  w_bucket bigint[];
  w_amount bigint[];
  t_budget uuid[];
  t_start timestamptz[];
  t_let_go_usd numeric[];
  t_let_go_tokens bigint[];
  t_spent_usd numeric[];
  t_spent_tokens bigint[];
BEGIN
  LOCK TABLE llm.limits, llm.budgets IN ROW SHARE MODE;
  SELECT array_agg(DISTINCT l.id) INTO v_ids
    FROM jsonb_to_recordset(p_paths) AS p (provider text, model text, stage text, owner_id uuid, lane text)
   CROSS JOIN LATERAL llm.limits_of(p.provider, p.model, p.stage, p.owner_id) AS l
   WHERE p.lane = 'normal';
  IF v_ids IS NOT NULL THEN
    PERFORM FROM llm.limits WHERE id = ANY (v_ids) ORDER BY id FOR NO KEY UPDATE;
  END IF;
  SELECT array_agg(DISTINCT b.id) INTO v_ids
    FROM jsonb_to_recordset(p_paths) AS p (stage text, owner_id uuid, project_id uuid, profile_id uuid)
   CROSS JOIN LATERAL llm.budgets_of(p.stage, p.owner_id, p.project_id, p.profile_id) AS b;
  IF v_ids IS NOT NULL THEN
    PERFORM FROM llm.budgets WHERE id = ANY (v_ids) ORDER BY id FOR NO KEY UPDATE;
  END IF;

  -- Ids and times beside the join: whatever the statistics say, the rows are found by their keys, in their months.
  SELECT array_agg(s.id), CASE WHEN bool_and(s.at IS NOT NULL) THEN min(s.at) ELSE '-infinity' END,
         CASE WHEN bool_and(s.at IS NOT NULL) THEN max(s.at) ELSE 'infinity' END
    INTO v_calls, v_first, v_last
    FROM jsonb_to_recordset(p_settles) AS s (id uuid, at timestamptz);

  WITH told AS MATERIALIZED (
    SELECT s.* FROM jsonb_to_recordset(p_settles) AS s (
             id uuid, at timestamptz, "as" text, input integer, cached integer, output integer, reasoning integer,
             usage jsonb, served text, seconds double precision, failure text)
  ), settled AS (
    UPDATE llm.calls AS c
       SET state = CASE WHEN u."as" = 'released' THEN 'failed'
                        WHEN u."as" = 'settled' AND c.input_price IS NULL THEN 'unpriced' ELSE u."as" END,
           usd = CASE WHEN u."as" IN ('failed', 'released') THEN 0
                      WHEN u."as" = 'settled' THEN
                        ((coalesce(u.input, c.estimated_input)
                          - least(coalesce(u.cached, 0), coalesce(u.input, c.estimated_input))) * c.input_price
                         + least(coalesce(u.cached, 0), coalesce(u.input, c.estimated_input))
                           * coalesce(c.cached_price, c.input_price)
                         + coalesce(u.output, c.max_output) * coalesce(c.output_price, 0)) * 0.000001 END,
           input_tokens = u.input, cached_input_tokens = u.cached, output_tokens = u.output,
           reasoning_tokens = u.reasoning, usage = u.usage, served_model = u.served, seconds = u.seconds,
           failure = CASE WHEN u."as" = 'released' THEN 'released' ELSE u.failure END, settled_at = clock_timestamp()
      FROM told AS u
     WHERE c.id = ANY (v_calls) AND c.created_at BETWEEN v_first AND v_last
       AND c.id = u.id AND c.created_at = coalesce(u.at, c.created_at)
       AND (c.state = 'reserved' OR (c.state = 'orphaned' AND u."as" NOT IN ('orphaned', 'released')))
    RETURNING c.provider, c.model, c.stage, c.owner_id, c.project_id, c.profile_id, c.lane, c.created_at, u."as" AS became,
              old.state AS was,
              llm.counted(old.state, old.input_tokens, old.estimated_input) AS old_input,
              llm.counted(new.state, new.input_tokens, new.estimated_input) AS new_input,
              llm.counted(old.state, old.output_tokens, old.max_output) AS old_output,
              llm.counted(new.state, new.output_tokens, new.max_output) AS new_output,
              llm.counted(old.state, old.usd, old.estimated_usd) AS old_usd,
              llm.counted(new.state, new.usd, new.estimated_usd) AS new_usd
  ), sums AS (
    SELECT provider, model, stage, owner_id, project_id, profile_id, lane, created_at, count(*) AS calls,
           count(*) FILTER (WHERE became = 'released') AS released,
           coalesce(sum(llm.amount('requested_tokens', old_input::bigint, old_output::bigint)) FILTER (WHERE became = 'released'), 0)
             AS unrequested,
           count(*) FILTER (WHERE was = 'reserved') AS ended,
           sum(new_input - old_input)::bigint AS input, sum(new_output - old_output)::bigint AS output,
           coalesce(sum(old_usd) FILTER (WHERE was = 'reserved'), 0) AS let_go_usd,
           coalesce(sum(old_input + old_output) FILTER (WHERE was = 'reserved'), 0)::bigint AS let_go_tokens,
           sum(new_usd) - coalesce(sum(old_usd) FILTER (WHERE was = 'orphaned'), 0) AS spent_usd,
           (sum(new_input + new_output)
            - coalesce(sum(old_input + old_output) FILTER (WHERE was = 'orphaned'), 0))::bigint AS spent_tokens
      FROM settled GROUP BY provider, model, stage, owner_id, project_id, profile_id, lane, created_at
  ), windows AS (
    SELECT l.id, llm.subject(l.per_owner, s.owner_id) AS subject, llm.bucket(s.created_at, l.window_seconds) AS bucket,
           sum(CASE l.measure WHEN 'requests' THEN -s.released WHEN 'concurrency' THEN -s.ended
                              WHEN 'requested_tokens' THEN -s.unrequested
                              WHEN 'input_tokens' THEN s.input WHEN 'output_tokens' THEN s.output
                              ELSE s.input + s.output END)::bigint AS amount
      FROM sums AS s CROSS JOIN LATERAL llm.limits_of(s.provider, s.model, s.stage, s.owner_id) AS l
     WHERE s.lane = 'normal' GROUP BY 1, 2, 3
  ), totals AS (
    SELECT b.id, llm.window_start(b.window, b.zone, s.created_at) AS start, sum(s.let_go_usd) AS let_go_usd,
           sum(s.let_go_tokens)::bigint AS let_go_tokens, sum(s.spent_usd) AS spent_usd,
           sum(s.spent_tokens)::bigint AS spent_tokens
      FROM sums AS s CROSS JOIN LATERAL llm.budgets_of(s.stage, s.owner_id, s.project_id, s.profile_id) AS b
     GROUP BY 1, 2
  )
  SELECT n.calls, n.released, w.id, w.subject, w.bucket, w.amount, t.id, t.start, t.let_go_usd, t.let_go_tokens,
         t.spent_usd, t.spent_tokens
    INTO v_count, v_released, w_limit, w_subject, w_bucket, w_amount, t_budget, t_start, t_let_go_usd, t_let_go_tokens,
         t_spent_usd, t_spent_tokens
    FROM (SELECT coalesce(sum(calls), 0) AS calls, coalesce(sum(released), 0) > 0 AS released FROM sums) AS n
   CROSS JOIN (SELECT array_agg(id ORDER BY id, subject, bucket) AS id,
                      array_agg(subject ORDER BY id, subject, bucket) AS subject,
                      array_agg(bucket ORDER BY id, subject, bucket) AS bucket,
                      array_agg(amount ORDER BY id, subject, bucket) AS amount FROM windows WHERE amount <> 0) AS w
   CROSS JOIN (SELECT array_agg(id ORDER BY id, start) AS id, array_agg(start ORDER BY id, start) AS start,
                      array_agg(let_go_usd ORDER BY id, start) AS let_go_usd,
                      array_agg(let_go_tokens ORDER BY id, start) AS let_go_tokens,
                      array_agg(spent_usd ORDER BY id, start) AS spent_usd,
                      array_agg(spent_tokens ORDER BY id, start) AS spent_tokens FROM totals) AS t;
  FOR i IN 1..coalesce(cardinality(w_limit), 0) LOOP
    UPDATE llm.window_counts AS w SET amount = greatest(w.amount + w_amount[i], 0)
     WHERE w.limit_id = w_limit[i] AND w.subject = w_subject[i] AND w.bucket = w_bucket[i];
  END LOOP;
  FOR i IN 1..coalesce(cardinality(t_budget), 0) LOOP
    UPDATE llm.budget_totals AS t
       SET reserved_usd = t.reserved_usd - t_let_go_usd[i], reserved_tokens = t.reserved_tokens - t_let_go_tokens[i],
           spent_usd = t.spent_usd + t_spent_usd[i], spent_tokens = t.spent_tokens + t_spent_tokens[i]
     WHERE t.budget_id = t_budget[i] AND t.window_start = t_start[i];
  END LOOP;
  IF v_released THEN
    DELETE FROM llm.calls AS c
     WHERE c.id = ANY (v_calls) AND c.created_at BETWEEN v_first AND v_last AND c.failure = 'released';
  END IF;
  IF v_ids IS NOT NULL THEN
    v_warned := llm.warn_of_budgets(v_ids, '{}', llm.clock());
  END IF;
  RETURN jsonb_build_object('news', v_count, 'warned', v_warned);
END $$;

CREATE FUNCTION llm.orphan_calls(
  p_worker uuid DEFAULT NULL, p_grace interval DEFAULT '2 minutes', p_most integer DEFAULT 1000
) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  SET plan_cache_mode = force_generic_plan SET jit = off AS $$
-- Give up the reservations of runs that are over, as orphaned, and return how many: the lease of their worker is gone,
-- or their job is no longer at their version. With p_worker: all of that one, which has ended. Calls of the batch lane
-- outlive both; they are given up after three days. What belongs to no run and no worker is given up after an hour.
DECLARE
  v_settles jsonb;
  v_paths jsonb;
BEGIN
  SELECT jsonb_agg(jsonb_build_object('id', c.id, 'at', c.created_at, 'as', 'orphaned', 'failure', c.failure)
                   ORDER BY c.id),
         jsonb_agg(DISTINCT jsonb_build_object('provider', c.provider, 'model', c.model, 'stage', c.stage, 'owner_id',
                   c.owner_id, 'project_id', c.project_id, 'profile_id', c.profile_id, 'lane', c.lane))
    INTO v_settles, v_paths
    FROM (
      SELECT c.id, c.created_at, c.provider, c.model, c.stage, c.owner_id, c.project_id, c.profile_id, c.lane,
             CASE WHEN p_worker IS NOT NULL THEN 'its process ended' WHEN c.lane = 'batch' THEN 'its batch never came back'
                  WHEN w.id IS NOT NULL THEN 'its run is over'
                  ELSE 'its process fell silent' END AS failure
        FROM llm.calls AS c
        LEFT JOIN runtime.workers AS w ON w.id = c.worker_id
              AND w.heartbeat_at > clock_timestamp() - make_interval(secs => greatest(least(w.lease_seconds, 86400), 0))
       WHERE c.state = 'reserved' AND (p_worker IS NULL OR c.worker_id = p_worker)
         AND CASE WHEN c.lane = 'batch' THEN c.created_at < clock_timestamp() - interval '3 days'
                  WHEN p_worker IS NOT NULL THEN true
                  WHEN c.created_at >= clock_timestamp() - p_grace THEN false
                  WHEN c.worker_id IS NOT NULL AND w.id IS NULL THEN true
                  WHEN c.job_id IS NOT NULL THEN NOT EXISTS (
                    SELECT FROM runtime.jobs AS j WHERE j.id = c.job_id AND j.version = c.version)
                  ELSE c.worker_id IS NULL AND c.created_at < clock_timestamp() - interval '1 hour' END
       LIMIT p_most) AS c;
  RETURN CASE WHEN v_settles IS NULL THEN 0 ELSE (llm.settle_calls(v_paths, v_settles) ->> 'news')::integer END;
END $$;

CREATE FUNCTION llm.tidy() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Delete what no decision needs any more and return how many rows: buckets that are out of their windows, what was
-- learned and is over, cooldowns that have passed, processes that are silent for a day, old totals and warnings.
DECLARE
  v_count integer;
  v_sum integer := 0;
BEGIN
  DELETE FROM llm.window_counts WHERE ctid = ANY (ARRAY(
    SELECT w.ctid FROM llm.limits AS l JOIN llm.window_counts AS w ON w.limit_id = l.id
     WHERE l.window_seconds IS NOT NULL
       AND w.bucket NOT BETWEEN llm.bucket(llm.clock(), l.window_seconds) - 70
                            AND llm.bucket(llm.clock(), l.window_seconds) + 64
     LIMIT 100000 FOR UPDATE OF w SKIP LOCKED));
  GET DIAGNOSTICS v_count = ROW_COUNT;
  v_sum := v_sum + v_count;
  DELETE FROM llm.window_counts AS w USING llm.limits AS l
   WHERE l.id = w.limit_id AND l.measure = 'concurrency' AND l.per_owner AND w.amount = 0
     AND w.ctid = ANY (ARRAY(SELECT z.ctid FROM llm.window_counts AS z WHERE z.amount = 0 AND z.bucket = 0
                              LIMIT 10000 FOR UPDATE SKIP LOCKED));
  GET DIAGNOSTICS v_count = ROW_COUNT;
  v_sum := v_sum + v_count;
  DELETE FROM llm.limits WHERE until < llm.clock() - interval '1 day' AND set_by = 'learned';
  GET DIAGNOSTICS v_count = ROW_COUNT;
  v_sum := v_sum + v_count;
  DELETE FROM llm.cooldowns WHERE until < llm.clock() - interval '1 day';
  GET DIAGNOSTICS v_count = ROW_COUNT;
  v_sum := v_sum + v_count;
  DELETE FROM llm.askers WHERE seen_at < llm.clock() - interval '1 day';
  GET DIAGNOSTICS v_count = ROW_COUNT;
  v_sum := v_sum + v_count;
  DELETE FROM llm.budget_totals AS t USING llm.budgets AS b
   WHERE b.id = t.budget_id AND b.window <> 'total' AND t.window_start < llm.clock() - interval '400 days';
  GET DIAGNOSTICS v_count = ROW_COUNT;
  v_sum := v_sum + v_count;
  DELETE FROM llm.budget_warnings WHERE created_at < llm.clock() - interval '400 days';
  GET DIAGNOSTICS v_count = ROW_COUNT;
  RETURN v_sum + v_count;
END $$;
