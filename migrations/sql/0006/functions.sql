-- The store's functions, each within the owner for whom its caller acts. Those that write run with their owner's rights:
-- who may call one needs no right to write the tables.

CREATE FUNCTION assessments.acting_owner() RETURNS uuid LANGUAGE plpgsql STABLE
  SET search_path = pg_catalog, pg_temp AS $$
-- For whom the caller acts; null for an operator who acts for nobody. A service that acts for nobody is refused.
DECLARE
  v_actor uuid := runtime.actor_id();
BEGIN
  IF v_actor IS NULL AND NOT runtime.is_trusted() THEN
    RAISE EXCEPTION 'gristmill.user_id must be set: a service acts for one user, got nothing'
      USING ERRCODE = 'null_value_not_allowed';
  END IF;
  RETURN v_actor;
END $$;

CREATE FUNCTION assessments.job_of(p_assessment_id varchar(255)) RETURNS uuid LANGUAGE plpgsql STABLE
  SET search_path = pg_catalog, pg_temp AS $$
-- The job id of the caller's assessment of this name; null if there is none. An operator who acts for nobody means the
-- one that nobody owns, and where there is none the only one of this name. With the caller's own rights.
DECLARE
  v_owner uuid := assessments.acting_owner();
  v_ids uuid[];
  v_unowned uuid;
BEGIN
  IF v_owner IS NOT NULL THEN
    RETURN (SELECT id FROM assessments.assessment_states
             WHERE assessment_id = p_assessment_id AND owner_id = v_owner);
  END IF;
  SELECT array_agg(id), (array_agg(id) FILTER (WHERE owner_id IS NULL))[1] INTO v_ids, v_unowned
    FROM (SELECT id, owner_id FROM assessments.assessment_states
           WHERE assessment_id = p_assessment_id ORDER BY owner_id NULLS FIRST LIMIT 2) AS a;
  IF v_unowned IS NULL AND cardinality(v_ids) > 1 THEN
    RAISE EXCEPTION 'assessment % belongs to several owners: say whose with gristmill.user_id (--owner)',
      quote_literal(p_assessment_id) USING ERRCODE = 'cardinality_violation';
  END IF;
  RETURN coalesce(v_unowned, v_ids[1]);
END $$;

CREATE OR REPLACE FUNCTION assessments.create_assessment(
  p_assessment_id varchar(255), p_request_data jsonb, p_priority integer DEFAULT 5,
  p_timeout_seconds integer DEFAULT 300
) RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Create a pending assessment in the caller's transaction. The same request again returns the first id.
DECLARE
  v_owner uuid := assessments.acting_owner();
  v_id uuid;
  v_first jsonb;
  v_differs text;
BEGIN
  IF coalesce(p_assessment_id, '') !~ '\S' THEN
    RAISE EXCEPTION 'assessment_id must not be empty, got %', coalesce(quote_literal(p_assessment_id), 'nothing')
      USING ERRCODE = 'invalid_parameter_value';
  ELSIF length(p_assessment_id) > 255 THEN
    RAISE EXCEPTION 'assessment_id must have at most 255 characters, got %', length(p_assessment_id)
      USING ERRCODE = 'string_data_right_truncation';
  ELSIF jsonb_typeof(p_request_data) IS DISTINCT FROM 'object' THEN
    RAISE EXCEPTION 'request_data must be a JSON object, got %', coalesce(jsonb_typeof(p_request_data), 'nothing')
      USING ERRCODE = 'invalid_parameter_value';
  ELSIF p_priority NOT BETWEEN 1 AND 10 THEN
    RAISE EXCEPTION 'priority must lie from 1 to 10, got %', p_priority
      USING ERRCODE = 'check_violation', CONSTRAINT = 'ck_assessment_states_priority';
  ELSIF p_timeout_seconds NOT BETWEEN 1 AND 2678400 THEN
    RAISE EXCEPTION 'timeout_seconds must lie from 1 to 2678400, got %', p_timeout_seconds
      USING ERRCODE = 'check_violation', CONSTRAINT = 'ck_assessment_states_timeout_seconds';
  END IF;
  INSERT INTO assessments.assessment_states (assessment_id, owner_id, request_data, priority, timeout_seconds)
  VALUES (p_assessment_id, v_owner, p_request_data, coalesce(p_priority, 5), p_timeout_seconds)
  ON CONFLICT (assessment_id, owner_id) DO NOTHING RETURNING id INTO v_id;
  IF v_id IS NULL THEN
    SELECT id, request_data INTO v_id, v_first FROM assessments.assessment_states
     WHERE assessment_id = p_assessment_id AND owner_id IS NOT DISTINCT FROM v_owner;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'assessment % was created or deleted meanwhile; try again', quote_literal(p_assessment_id)
        USING ERRCODE = 'serialization_failure';
    ELSIF v_first <> p_request_data THEN
      v_differs := CASE WHEN jsonb_typeof(v_first) <> 'object' THEN 'request_data' ELSE (
        SELECT string_agg(left(key, 40), ', ' ORDER BY key)
          FROM (SELECT key FROM jsonb_each(v_first) AS a FULL JOIN jsonb_each(p_request_data) AS b USING (key)
                 WHERE a.value IS DISTINCT FROM b.value ORDER BY key LIMIT 5) AS d) END;
      RAISE EXCEPTION 'assessment % exists with another request, which differs in %', quote_literal(p_assessment_id),
        v_differs USING ERRCODE = 'unique_violation', CONSTRAINT = 'idx_assessment_states_assessment_id';
    END IF;
  END IF;
  RETURN v_id;
END $$;

CREATE OR REPLACE FUNCTION assessments.update_assessment_state(
  p_assessment_id varchar(255), p_new_state assessments.assessmentstate, p_version integer,
  p_result_data jsonb DEFAULT NULL, p_error_message text DEFAULT NULL, p_progress integer DEFAULT NULL,
  p_changed_by varchar(255) DEFAULT NULL, p_change_reason text DEFAULT NULL
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Change one assessment if it still has the expected version, else raise GM409 naming both. What is not given stays.
-- Updating one that a worker runs takes it over: the worker's run ends, and the caller answers for the rest.
DECLARE
  v_old record;
  v_starts boolean;
  v_ends boolean := p_new_state IN ('completed', 'failed', 'cancelled');
  v_said_by text := coalesce(current_setting('gristmill.changed_by', true), '');
  v_said_action text := coalesce(current_setting('gristmill.change_action', true), '');
  v_said_reason text := coalesce(current_setting('gristmill.change_reason', true), '');
  v_action text;
  v_refusal text;
  v_rule text;
  v_reason text := left(coalesce(p_change_reason, nullif(v_said_reason, '')), 2000);
BEGIN
  IF num_nulls(p_assessment_id, p_new_state, p_version) > 0 THEN
    RAISE EXCEPTION 'assessment_id, new state and expected version must be given'
      USING ERRCODE = 'null_value_not_allowed';
  ELSIF jsonb_typeof(p_result_data) NOT IN ('object', 'null') THEN
    RAISE EXCEPTION 'result_data must be a JSON object, got %', jsonb_typeof(p_result_data)
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  SELECT id, state, version, dispatched_at INTO v_old FROM assessments.assessment_states
   WHERE id = assessments.job_of(p_assessment_id) FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'assessment % does not exist (any more)', quote_literal(p_assessment_id)
      USING ERRCODE = 'no_data_found';
  ELSIF v_old.version <> p_version THEN
    RAISE EXCEPTION 'assessment % has version %, expected version %', quote_literal(p_assessment_id), v_old.version,
      p_version USING ERRCODE = 'GM409', HINT = 'read it again and decide anew';
  ELSIF v_old.state = p_new_state AND v_ends THEN
    RAISE EXCEPTION 'assessment % is %, which is final', quote_literal(p_assessment_id), v_old.state
      USING ERRCODE = 'check_violation';
  ELSIF v_old.state <> p_new_state AND v_old.state || '>' || p_new_state <> ALL (
      (SELECT transitions FROM runtime.lifecycles WHERE table_name = 'assessments.assessment_states')::text[]) THEN
    RAISE EXCEPTION 'assessment % is %, it cannot become %', quote_literal(p_assessment_id), v_old.state, p_new_state
      USING ERRCODE = 'check_violation';
  END IF;

  v_starts := v_old.state = 'pending' AND p_new_state = 'processing';
  v_action := coalesce(left(nullif(v_said_action, ''), 100), CASE
    WHEN v_old.state = p_new_state THEN 'update' WHEN v_starts THEN 'claim' WHEN p_new_state = 'completed' THEN 'complete'
    WHEN p_new_state = 'failed' THEN 'fail' WHEN p_new_state = 'cancelled' THEN 'cancel'
    WHEN v_old.state = 'failed' THEN 'retry' ELSE 'release' END);
  IF v_starts AND v_old.dispatched_at IS NULL THEN
    -- Nothing starts without a ticket, and a ticket is given before: in a statement of its own.
    UPDATE assessments.assessment_states SET dispatched_at = now() WHERE id = v_old.id;
  END IF;
  -- Said by row and by session: the trigger takes the row's word only where it differs from the last change's.
  PERFORM set_config('gristmill.changed_by', coalesce(left(p_changed_by, 255), v_said_by), true),
          set_config('gristmill.change_action', v_action, true),
          set_config('gristmill.change_reason', coalesce(v_reason, ''), true);
  BEGIN
    UPDATE assessments.assessment_states SET
      state = p_new_state,
      version = version + 1,
      result_data = coalesce(nullif(p_result_data, 'null'), result_data),
      error_message = coalesce(left(p_error_message, 10000), error_message),
      progress = coalesce(p_progress, CASE
        WHEN v_ends THEN 100 WHEN p_new_state = 'pending' THEN 0 ELSE greatest(progress, 1) END),
      retry_count = retry_count + (v_old.state = 'failed')::integer,
      started_at = CASE WHEN v_starts THEN now() WHEN p_new_state <> 'pending' THEN started_at END,
      completed_at = CASE WHEN v_ends THEN now() END,
      next_retry_at = CASE WHEN v_old.state = p_new_state THEN next_retry_at END,
      -- In flight without a lease: nobody's heart beats for it, so its deadline is what frees it.
      dispatched_at = CASE WHEN p_new_state = 'processing' THEN coalesce(dispatched_at, now()) END,
      deadline_at = CASE WHEN v_starts THEN now() + make_interval(secs => coalesce(timeout_seconds, 300))
                         WHEN p_new_state = 'processing' THEN deadline_at END,
      lease_owner = CASE WHEN v_ends THEN lease_owner END,
      updated_at = now(),
      change_action = v_action,
      change_reason = v_reason
    WHERE id = v_old.id;
  EXCEPTION WHEN check_violation THEN
    -- In one line: Postgres would add the whole row.
    GET STACKED DIAGNOSTICS v_refusal = MESSAGE_TEXT, v_rule = CONSTRAINT_NAME;
    RAISE EXCEPTION '%', v_refusal USING ERRCODE = 'check_violation', CONSTRAINT = v_rule;
  END;
  PERFORM set_config('gristmill.changed_by', v_said_by, true),
          set_config('gristmill.change_action', v_said_action, true),
          set_config('gristmill.change_reason', v_said_reason, true);
  RETURN true;
END $$;

CREATE OR REPLACE FUNCTION assessments.cleanup_old_assessments(
  p_retention_days integer DEFAULT 30, p_batch_size integer DEFAULT 1000
) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Delete one batch of assessments that ended this long ago, oldest first, and return how many; repeat until 0.
-- What somebody holds right now is left for the next batch. Who acts for an owner deletes that owner's only.
DECLARE
  v_owner uuid := assessments.acting_owner();
  v_deleted integer;
BEGIN
  IF p_retention_days IS NULL OR p_retention_days < 0 OR p_batch_size IS NULL OR p_batch_size < 1 THEN
    RAISE EXCEPTION 'retention must be 0 days or more and a batch 1 row or more, got % and %', p_retention_days,
      p_batch_size USING ERRCODE = 'invalid_parameter_value';
  END IF;
  DELETE FROM assessments.assessment_states WHERE id = ANY (ARRAY(
    SELECT id FROM assessments.assessment_states
     WHERE completed_at < now() - make_interval(days => least(p_retention_days, 365000))
       AND state IN ('completed', 'failed', 'cancelled') AND (v_owner IS NULL OR owner_id = v_owner)
     ORDER BY completed_at LIMIT p_batch_size FOR UPDATE SKIP LOCKED));
  GET DIAGNOSTICS v_deleted = ROW_COUNT;
  RETURN v_deleted;
END $$;

DROP FUNCTION assessments.put_cached_state(varchar, jsonb, integer);
CREATE FUNCTION assessments.put_cached_state(
  p_assessment_id varchar(255), p_state_data jsonb, p_ttl_seconds integer DEFAULT 60, p_version integer DEFAULT NULL
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Remember a state of the caller's assessment until the row changes or the time is over. p_version (else the member
-- `version` of the state, if there is one) is the version that was read: one that is not the row's is not kept.
DECLARE
  v_version numeric := coalesce(p_version, CASE WHEN jsonb_typeof(p_state_data -> 'version') = 'number'
                                                THEN (p_state_data ->> 'version')::numeric END);
BEGIN
  IF jsonb_typeof(p_state_data) IS DISTINCT FROM 'object' THEN
    RAISE EXCEPTION 'state_data must be a JSON object, got %', coalesce(jsonb_typeof(p_state_data), 'nothing')
      USING ERRCODE = 'invalid_parameter_value';
  ELSIF p_ttl_seconds IS NULL OR p_ttl_seconds NOT BETWEEN 0 AND 86400 THEN
    RAISE EXCEPTION 'ttl_seconds must lie from 0 to 86400, got %', coalesce(p_ttl_seconds::text, 'nothing')
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  INSERT INTO assessments.assessment_state_cache AS c (
    job_id, assessment_id, owner_id, version, row_mark, state_data, expires_at)
  SELECT s.id, s.assessment_id, s.owner_id, s.version, s.xmin::text || s.ctid::text, p_state_data,
         now() + make_interval(secs => p_ttl_seconds)
    FROM assessments.assessment_states AS s
   WHERE s.id = assessments.job_of(p_assessment_id) AND (v_version IS NULL OR v_version = s.version)
  ON CONFLICT (job_id) DO UPDATE SET version = excluded.version, row_mark = excluded.row_mark,
    state_data = excluded.state_data, expires_at = excluded.expires_at, last_accessed = now();
END $$;

CREATE OR REPLACE FUNCTION assessments.get_cached_state(p_assessment_id varchar(255)) RETURNS jsonb
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  -- What was put, has not expired and is still what the row says, counted as one access; null if there is nothing.
  -- Each update of a row makes another tuple: the mark tells them apart, and no claim or settle pays for it.
  UPDATE assessments.assessment_state_cache AS c
     SET access_count = least(c.access_count, 2147483646) + 1, last_accessed = now()
    FROM assessments.assessment_states AS s
   WHERE c.job_id = assessments.job_of(p_assessment_id) AND s.id = c.job_id AND c.expires_at > now()
     AND c.row_mark = s.xmin::text || s.ctid::text
  RETURNING c.state_data
$$;

CREATE OR REPLACE FUNCTION assessments.measure_endings() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = on SET enable_mergejoin = on SET enable_seqscan = on AS $$
-- A whole batch at once: row by row this doubled the cost of a settle. What never started took no time.
BEGIN
  IF TG_RELID <> 'assessments.assessment_states'::regclass THEN
    RAISE EXCEPTION '% measures assessments, not %', TG_NAME, TG_RELID::regclass USING ERRCODE = 'insufficient_privilege';
  END IF;
  PERFORM FROM new_rows WHERE completed_at IS NOT NULL LIMIT 1;
  IF FOUND THEN
    INSERT INTO assessments.assessment_metrics (assessment_id, owner_id, metric_type, metric_value, timestamp)
    SELECT n.assessment_id, n.owner_id, m.type, m.value, n.completed_at
      FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id
     CROSS JOIN LATERAL (VALUES
       ('processing_time', CASE WHEN n.started_at IS NOT NULL THEN greatest(0, least(2147483647,
          round(extract(epoch FROM n.completed_at - n.started_at) * 1000)))::integer END),
       ('retry_count', nullif(n.retry_count, 0)),
       ('error_count', nullif(n.retry_count + (n.state = 'failed')::integer, 0))) AS m (type, value)
     WHERE o.completed_at IS NULL AND n.completed_at IS NOT NULL AND m.value IS NOT NULL;
  END IF;
  RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION assessments.remember_retired() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- History knows jobs by id: keep the name and the owner that go with it, however the row was deleted.
BEGIN
  IF TG_RELID <> 'assessments.assessment_states'::regclass THEN
    RAISE EXCEPTION '% remembers assessments, not %', TG_NAME, TG_RELID::regclass
      USING ERRCODE = 'insufficient_privilege';
  END IF;
  INSERT INTO assessments.retired_assessments (id, assessment_id, owner_id) SELECT id, assessment_id, owner_id FROM gone
  ON CONFLICT (id) DO UPDATE SET assessment_id = excluded.assessment_id, owner_id = excluded.owner_id,
    deleted_at = excluded.deleted_at;
  RETURN NULL;
END $$;
