-- Admission: many calls in one statement, each of them in all of its limits and budgets or in none.

CREATE FUNCTION llm.warn_of_budgets(p_budgets uuid[], p_refused uuid[], p_now timestamptz) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Write down, once per window, which budgets have passed a threshold of theirs, and return them. A budget that refuses
-- a call has passed 1.
DECLARE
  v_told jsonb;
BEGIN
  WITH passed AS (
    SELECT b.id, b.name, t.window_start, s.share, m.threshold
      FROM llm.budgets AS b
      JOIN llm.budget_totals AS t
        ON t.budget_id = b.id AND t.window_start = llm.window_start(b.window, b.zone, p_now)
     CROSS JOIN LATERAL (SELECT greatest((t.reserved_usd + t.spent_usd) / nullif(b.usd, 0),
                                         (t.reserved_tokens + t.spent_tokens) / nullif(b.tokens, 0)::numeric)) AS s (share)
     CROSS JOIN LATERAL (SELECT max(a) FROM unnest(b.warn_at || 1::numeric) AS a
                          WHERE a <= s.share OR (a = 1 AND b.id = ANY (p_refused))) AS m (threshold)
     WHERE b.id = ANY (p_budgets || p_refused) AND m.threshold > coalesce(t.warned_at, 0)
  ), marked AS (
    UPDATE llm.budget_totals AS t SET warned_at = p.threshold FROM passed AS p
     WHERE t.budget_id = p.id AND t.window_start = p.window_start
  ), written AS (
    INSERT INTO llm.budget_warnings (budget_id, window_start, threshold, share, created_at)
    SELECT id, window_start, threshold, coalesce(share, 1), p_now FROM passed
        ON CONFLICT DO NOTHING
  )
  SELECT jsonb_agg(jsonb_build_object('name', name, 'threshold', threshold, 'share', coalesce(share, 1)))
    INTO v_told FROM passed;
  RETURN v_told;
END $$;

CREATE FUNCTION llm.admit(
  p_paths jsonb, p_calls jsonb, p_worker uuid DEFAULT NULL, p_asker uuid DEFAULT NULL, p_turn bigint DEFAULT 1,
  p_again boolean DEFAULT false
) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
  SET enable_bitmapscan = off SET enable_mergejoin = off SET jit = off AS $$
-- Reserve these calls in their order and return when, and what keeps back the others:
--   at       when the admitted ones were reserved, by the one clock: the others of theirs that matter
--   found    place: when, of calls that were reserved before (p_again: a question that got no answer is put again)
--   refused  places, from 1; by: for each of them the place in causes, from 0
--   causes   what refuses: a limit, a budget, a cooldown; wait: seconds until it may not, NULL if that is not known
--   warned   budgets that have passed a threshold for the first time in their window
-- A path is whom a call asks for whom; calls name theirs by its place. A limit that refuses a call refuses the later
-- calls of the same question too: nobody is overtaken. A refusal writes nothing, but the first one of a budget's window
-- is noted as a warning. Calls of the batch lane are under budgets alone.
-- p_asker and p_turn: a question is void once the same process has put one with a higher turn.
DECLARE
  v_now timestamptz;
  v_minute bigint;
  v_ids uuid[];
  v_found jsonb;
  v_known uuid[] := '{}';
  -- Limits, one entry for each subject. What they count, what they have, what is added.
  l_id uuid[] := '{}';
  l_subject text[];
  l_measure text[];
  l_window integer[];
  l_bucket bigint[];
  l_most bigint[];
  l_used bigint[];
  l_new bigint[];
  l_cause integer[];
  -- Budgets.
  b_id uuid[] := '{}';
  b_start timestamptz[];
  b_then text[];
  b_usd numeric[];
  b_tokens bigint[];
  b_used_usd numeric[];
  b_used_tokens bigint[];
  b_new_usd numeric[];
  b_new_tokens bigint[];
  b_minute bigint[];
  b_share numeric[];
  b_cause integer[];
  b_refused uuid[] := '{}';
  -- Of each path: its limits and budgets by their entries, from and to; its cooldown.
  v_place integer[];
  v_entry integer[];
  pl_from integer[];
  pl_to integer[];
  pl integer[];
  pb_from integer[];
  pb_to integer[];
  pb integer[];
  p_cool timestamptz[];
  p_cause integer[];
  p_batched boolean[];
  v_paths integer := jsonb_array_length(p_paths);
  v_call record;
  v_need bigint;
  v_sum bigint;
  v_own numeric;
  v_over boolean;
  v_by integer;
  v_wait double precision;
  v_causes jsonb := '[]';
  v_cause jsonb;
  v_refused integer[] := '{}';
  v_refused_by integer[] := '{}';
  v_admitted integer := 0;
  n integer;
BEGIN
  LOCK TABLE llm.limits, llm.budgets IN ROW SHARE MODE;  -- new ones count from the ledger, with nobody in between
  IF p_asker IS NOT NULL THEN
    INSERT INTO llm.askers AS a (id, turn, seen_at) VALUES (p_asker, p_turn, clock_timestamp())
        ON CONFLICT (id) DO UPDATE SET turn = excluded.turn, seen_at = excluded.seen_at WHERE a.turn < excluded.turn;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'asker % has asked again since turn %', p_asker, p_turn
        USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
  END IF;

  -- The mutex between processes: the rows themselves, always in the order of their ids, limits before budgets.
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
  v_now := llm.clock();
  v_minute := floor(extract(epoch FROM v_now) / 60);

  IF p_again THEN
    SELECT jsonb_object_agg(k.place, k.at), coalesce(array_agg(k.id), '{}') INTO v_found, v_known
      FROM (SELECT u.id, u.place, (SELECT c.created_at FROM llm.calls AS c WHERE c.id = u.id LIMIT 1) AS at
              FROM ROWS FROM (jsonb_to_recordset(p_calls) AS (id uuid)) WITH ORDINALITY AS u (id, place)) AS k
     WHERE k.at IS NOT NULL;
  END IF;

  SELECT array_agg(k.id), array_agg(k.subject), array_agg(k.measure), array_agg(k.window_seconds),
         array_agg(k.bucket), array_agg(k.most), array_agg(u.used), array_agg(0), array_agg(-1)
    INTO l_id, l_subject, l_measure, l_window, l_bucket, l_most, l_used, l_new, l_cause
    FROM (SELECT DISTINCT l.id, llm.subject(l.per_owner, p.owner_id) AS subject, l.measure, l.window_seconds,
                 llm.bucket(v_now, l.window_seconds) AS bucket,
                 CASE WHEN l.until <= v_now THEN 9223372036854775807 ELSE l.at_most END AS most
            FROM jsonb_to_recordset(p_paths) AS p (provider text, model text, stage text, owner_id uuid, lane text)
           CROSS JOIN LATERAL llm.limits_of(p.provider, p.model, p.stage, p.owner_id) AS l
           WHERE p.lane = 'normal') AS k
   CROSS JOIN LATERAL (
          SELECT coalesce(sum(w.amount), 0)::bigint FROM llm.window_counts AS w
           WHERE w.limit_id = k.id AND w.subject = k.subject
             AND w.bucket BETWEEN k.bucket - 64 AND k.bucket + 64) AS u (used);
  IF l_id IS NOT NULL THEN
    SELECT array_agg(x.place ORDER BY x.place, x.entry), array_agg(x.entry ORDER BY x.place, x.entry)
      INTO v_place, v_entry
      FROM (SELECT p.place::integer, e.entry::integer
              FROM ROWS FROM (jsonb_to_recordset(p_paths)
                     AS (provider text, model text, stage text, owner_id uuid, lane text)) WITH ORDINALITY
                     AS p (provider, model, stage, owner_id, lane, place)
             CROSS JOIN LATERAL llm.limits_of(p.provider, p.model, p.stage, p.owner_id) AS l
              JOIN unnest(l_id, l_subject) WITH ORDINALITY AS e (id, subject, entry)
                ON e.id = l.id AND e.subject = llm.subject(l.per_owner, p.owner_id)
             WHERE p.lane = 'normal') AS x;
    pl := v_entry;
    pl_from := array_fill(1, ARRAY[v_paths]);
    pl_to := array_fill(0, ARRAY[v_paths]);
    FOR i IN 1..coalesce(cardinality(v_place), 0) LOOP
      n := v_place[i];
      IF pl_to[n] = 0 THEN pl_from[n] := i; END IF;
      pl_to[n] := i;
    END LOOP;
  END IF;

  IF v_ids IS NOT NULL THEN
    SELECT array_agg(p.lane = 'batch' ORDER BY p.place) INTO p_batched
      FROM ROWS FROM (jsonb_to_recordset(p_paths) AS (lane text)) WITH ORDINALITY AS p (lane, place);
    SELECT array_agg(b.id), array_agg(s.start), array_agg(b.then), array_agg(b.usd), array_agg(b.tokens),
           array_agg(coalesce(t.reserved_usd + t.spent_usd, 0)),
           array_agg(coalesce(t.reserved_tokens + t.spent_tokens, 0)),
           array_agg(0::numeric), array_agg(0::bigint), array_agg(coalesce(t.slow_minute, 0)),
           array_agg(CASE WHEN t.slow_minute = v_minute THEN t.slow_share ELSE 0 END), array_agg(-1)
      INTO b_id, b_start, b_then, b_usd, b_tokens, b_used_usd, b_used_tokens, b_new_usd, b_new_tokens, b_minute, b_share,
           b_cause
      FROM llm.budgets AS b
     CROSS JOIN LATERAL llm.window_start(b.window, b.zone, v_now) AS s (start)
      LEFT JOIN llm.budget_totals AS t ON t.budget_id = b.id AND t.window_start = s.start
     WHERE b.id = ANY (v_ids);
    SELECT array_agg(x.place ORDER BY x.place, x.entry), array_agg(x.entry ORDER BY x.place, x.entry)
      INTO v_place, v_entry
      FROM (SELECT p.place::integer, e.entry::integer
              FROM ROWS FROM (jsonb_to_recordset(p_paths)
                     AS (stage text, owner_id uuid, project_id uuid, profile_id uuid)) WITH ORDINALITY
                     AS p (stage, owner_id, project_id, profile_id, place)
             CROSS JOIN LATERAL llm.budgets_of(p.stage, p.owner_id, p.project_id, p.profile_id) AS b
              JOIN unnest(b_id) WITH ORDINALITY AS e (id, entry) ON e.id = b.id) AS x;
    pb := v_entry;
    pb_from := array_fill(1, ARRAY[v_paths]);
    pb_to := array_fill(0, ARRAY[v_paths]);
    FOR i IN 1..coalesce(cardinality(v_place), 0) LOOP
      n := v_place[i];
      IF pb_to[n] = 0 THEN pb_from[n] := i; END IF;
      pb_to[n] := i;
    END LOOP;
  END IF;

  IF EXISTS (SELECT FROM llm.cooldowns AS c WHERE c.until > v_now) THEN
    SELECT array_agg((SELECT max(c.until) FROM llm.cooldowns AS c
                       WHERE c.provider = p.provider AND c.model IN ('', p.model) AND p.lane = 'normal'
                         AND c.until > v_now) ORDER BY p.place), array_agg(-1)
      INTO p_cool, p_cause
      FROM ROWS FROM (jsonb_to_recordset(p_paths) AS (provider text, model text, lane text)) WITH ORDINALITY
             AS p (provider, model, lane, place);
  END IF;

  FOR v_call IN
    SELECT u.place::integer, u.path, u.input::bigint, coalesce(u.output, 0)::bigint AS output, u.usd
      FROM ROWS FROM (jsonb_to_recordset(p_calls)
             AS (id uuid, path integer, input integer, output integer, usd numeric, cached boolean))
             WITH ORDINALITY AS u (id, path, input, output, usd, cached, place)
     WHERE u.cached IS NULL AND NOT (u.id = ANY (v_known))
  LOOP
    v_by := NULL;
    IF p_cool[v_call.path] IS NOT NULL THEN
      IF p_cause[v_call.path] < 0 THEN
        SELECT jsonb_build_object('kind', 'cooldown', 'provider', c.provider, 'model', c.model, 'reason', c.reason,
                                  'wait', extract(epoch FROM c.until - v_now)) INTO v_cause
          FROM llm.cooldowns AS c
         WHERE c.until = p_cool[v_call.path] AND c.provider = p_paths -> (v_call.path - 1) ->> 'provider' LIMIT 1;
        p_cause[v_call.path] := jsonb_array_length(v_causes);
        v_causes := v_causes || v_cause;
      END IF;
      v_by := p_cause[v_call.path];
    END IF;

    IF v_by IS NULL AND pl_to[v_call.path] > 0 THEN
      FOR i IN pl_from[v_call.path]..pl_to[v_call.path] LOOP
        n := pl[i];
        IF l_cause[n] >= 0 THEN
          v_by := l_cause[n];
          EXIT;
        END IF;
        v_need := CASE l_measure[n] WHEN 'input_tokens' THEN v_call.input WHEN 'output_tokens' THEN v_call.output
                                    WHEN 'tokens' THEN v_call.input + v_call.output
                                    WHEN 'requested_tokens' THEN (v_call.input * 3 + 3) / 4 + v_call.output ELSE 1 END;
        CONTINUE WHEN l_used[n] + v_need <= l_most[n];
        v_wait := llm.free_in(l_id[n], l_subject[n], l_window[n], l_most[n] - v_need, l_new[n], v_now);
        SELECT llm.limit_told(l, l_subject[n], l_used[n], v_wait) INTO v_cause FROM llm.limits AS l WHERE l.id = l_id[n];
        v_by := jsonb_array_length(v_causes);
        IF v_need > l_most[n] THEN  -- others may fit
          v_cause := v_cause || jsonb_build_object('never', true, 'need', v_need, 'wait', NULL);
        ELSE
          l_cause[n] := v_by;
        END IF;
        v_causes := v_causes || v_cause;
        EXIT;
      END LOOP;
    END IF;

    v_sum := v_call.input + v_call.output;
    IF v_by IS NULL AND pb_to[v_call.path] > 0 THEN
      FOR i IN pb_from[v_call.path]..pb_to[v_call.path] LOOP
        n := pb[i];
        CONTINUE WHEN b_then[n] = 'warn' OR (b_then[n] = 'batch' AND p_batched[v_call.path]);
        v_over := coalesce(b_used_usd[n] + v_call.usd > b_usd[n], false)
               OR coalesce(b_used_tokens[n] + v_sum > b_tokens[n], false);
        IF b_usd[n] IS NOT NULL AND v_call.usd IS NULL THEN
          v_by := jsonb_array_length(v_causes);
          SELECT llm.budget_told(b, b_used_usd[n], b_used_tokens[n], NULL, NULL)
                 || jsonb_build_object('unpriced', true, 'provider', p_paths -> (v_call.path - 1) ->> 'provider',
                                       'model', p_paths -> (v_call.path - 1) ->> 'model') INTO v_cause
            FROM llm.budgets AS b WHERE b.id = b_id[n];
          v_causes := v_causes || v_cause;
          EXIT;
        END IF;
        CONTINUE WHEN NOT v_over;
        v_own := greatest(v_call.usd / nullif(b_usd[n], 0), v_sum / nullif(b_tokens[n], 0)::numeric);
        CONTINUE WHEN b_then[n] = 'slow' AND (b_share[n] = 0 OR b_share[n] + v_own <= 0.001);
        IF b_cause[n] < 0 THEN
          -- What is reserved may be given back soon: then the end of the window is too late to ask again.
          SELECT llm.budget_told(b, b_used_usd[n], b_used_tokens[n],
                   CASE WHEN b.then = 'slow' THEN 60 - (extract(epoch FROM v_now) - v_minute * 60)::float8
                        WHEN coalesce(t.spent_usd + v_call.usd <= b.usd, true)
                         AND coalesce(t.spent_tokens + v_sum <= b.tokens, true)
                         AND t.reserved_tokens + b_new_tokens[n] > 0 THEN NULL
                        ELSE extract(epoch FROM e.until - v_now)::float8 END, e.until)
            INTO v_cause
            FROM llm.budgets AS b
           CROSS JOIN LATERAL llm.window_end(b.window, b.zone, v_now) AS e (until)
            LEFT JOIN llm.budget_totals AS t ON t.budget_id = b.id AND t.window_start = b_start[n]
           WHERE b.id = b_id[n];
          b_cause[n] := jsonb_array_length(v_causes);
          v_causes := v_causes || v_cause;
          b_refused := b_refused || b_id[n];
        END IF;
        v_by := b_cause[n];
        EXIT;
      END LOOP;
    END IF;

    IF v_by IS NOT NULL THEN
      v_refused := v_refused || v_call.place;
      v_refused_by := v_refused_by || v_by;
      CONTINUE;
    END IF;
    v_admitted := v_admitted + 1;
    IF pl_to[v_call.path] > 0 THEN
      FOR i IN pl_from[v_call.path]..pl_to[v_call.path] LOOP
        n := pl[i];
        v_need := CASE l_measure[n] WHEN 'input_tokens' THEN v_call.input WHEN 'output_tokens' THEN v_call.output
                                    WHEN 'tokens' THEN v_call.input + v_call.output
                                    WHEN 'requested_tokens' THEN (v_call.input * 3 + 3) / 4 + v_call.output ELSE 1 END;
        l_used[n] := l_used[n] + v_need;
        l_new[n] := l_new[n] + v_need;
      END LOOP;
    END IF;
    IF pb_to[v_call.path] > 0 THEN
      FOR i IN pb_from[v_call.path]..pb_to[v_call.path] LOOP
        n := pb[i];
        IF b_then[n] = 'slow' AND (coalesce(b_used_usd[n] + v_call.usd > b_usd[n], false)
                                   OR coalesce(b_used_tokens[n] + v_sum > b_tokens[n], false)) THEN
          b_minute[n] := v_minute;
          b_share[n] := b_share[n] + greatest(v_call.usd / nullif(b_usd[n], 0), v_sum / nullif(b_tokens[n], 0)::numeric,
                                              0.000000001);
        END IF;
        b_used_usd[n] := b_used_usd[n] + coalesce(v_call.usd, 0);
        b_new_usd[n] := b_new_usd[n] + coalesce(v_call.usd, 0);
        b_used_tokens[n] := b_used_tokens[n] + v_sum;
        b_new_tokens[n] := b_new_tokens[n] + v_sum;
      END LOOP;
    END IF;
  END LOOP;

  INSERT INTO llm.calls (id, created_at, job_id, version, attempt, stage, owner_id, project_id, profile_id, worker_id,
                         route, step, provider, model, served_model, kind, lane, batch_id, state, estimated_input,
                         max_output, estimated_usd, input_tokens, output_tokens, input_price, cached_price,
                         output_price, usd, settled_at, seconds)
  SELECT u.id, v_now, u.job_id, u.version, u.attempt, p.stage, p.owner_id, p.project_id, p.profile_id, p_worker,
         u.route, coalesce(u.step, 0), p.provider, p.model, u.served, u.kind, p.lane, u.batch_id,
         CASE WHEN u.cached THEN 'cached' ELSE 'reserved' END, u.input, coalesce(u.output, 0), u.usd, u.input_used,
         u.output_used, u.input_price, u.cached_price, u.output_price, CASE WHEN u.cached THEN 0 END,
         CASE WHEN u.cached THEN v_now END, CASE WHEN u.cached THEN 0 END
    FROM ROWS FROM (jsonb_to_recordset(p_calls)
           AS (id uuid, path integer, job_id uuid, version integer, attempt integer, route text, step integer, kind text,
               batch_id uuid, cached boolean, input integer, output integer, usd numeric, input_price numeric,
               cached_price numeric, output_price numeric, served text, input_used integer, output_used integer))
           WITH ORDINALITY
           AS u (id, path, job_id, version, attempt, route, step, kind, batch_id, cached, input, output, usd, input_price,
                 cached_price, output_price, served, input_used, output_used, place)
    JOIN ROWS FROM (jsonb_to_recordset(p_paths)
           AS (provider text, model text, stage text, owner_id uuid, project_id uuid, profile_id uuid, lane text))
           WITH ORDINALITY AS p (provider, model, stage, owner_id, project_id, profile_id, lane, place)
      ON p.place = u.path
   WHERE NOT (u.place = ANY (v_refused)) AND NOT (u.id = ANY (v_known));

  IF v_admitted > 0 AND l_id IS NOT NULL THEN
    INSERT INTO llm.window_counts AS w (limit_id, subject, bucket, amount)
    SELECT * FROM unnest(l_id, l_subject, l_bucket, l_new) AS a (limit_id, subject, bucket, amount) WHERE a.amount > 0
        ON CONFLICT (limit_id, subject, bucket) DO UPDATE SET amount = w.amount + excluded.amount;
  END IF;
  IF v_ids IS NOT NULL THEN
    IF v_admitted > 0 THEN
      INSERT INTO llm.budget_totals AS t
             (budget_id, window_start, reserved_usd, reserved_tokens, slow_minute, slow_share)
      SELECT * FROM unnest(b_id, b_start, b_new_usd, b_new_tokens, b_minute, b_share) AS a
          ON CONFLICT (budget_id, window_start) DO UPDATE
             SET reserved_usd = t.reserved_usd + excluded.reserved_usd,
                 reserved_tokens = t.reserved_tokens + excluded.reserved_tokens,
                 slow_minute = excluded.slow_minute, slow_share = excluded.slow_share;
    END IF;
    IF v_admitted > 0 OR cardinality(b_refused) > 0 THEN
      v_cause := llm.warn_of_budgets(CASE WHEN v_admitted > 0 THEN b_id ELSE '{}' END, b_refused, v_now);
    ELSE
      v_cause := NULL;
    END IF;
  ELSE
    v_cause := NULL;
  END IF;
  RETURN jsonb_build_object('at', v_now, 'found', v_found, 'refused', to_jsonb(v_refused), 'by', to_jsonb(v_refused_by),
                            'causes', v_causes, 'warned', v_cause);
END $$;
