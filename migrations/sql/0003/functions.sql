-- The seed's three operations with its signatures, and the two of the cache. They run with their owner's rights: who may
-- call one needs no right to write the tables.

CREATE FUNCTION assessments.create_assessment(
  p_assessment_id varchar(255), p_request_data jsonb, p_priority integer DEFAULT 5,
  p_timeout_seconds integer DEFAULT 300
) RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Create a pending assessment in the caller's transaction. The same request again returns the first id.
DECLARE
  v_id uuid;
  v_same boolean;
BEGIN
  INSERT INTO assessments.assessment_states (assessment_id, request_data, priority, timeout_seconds)
  VALUES (p_assessment_id, p_request_data, coalesce(p_priority, 5), p_timeout_seconds)
  ON CONFLICT (assessment_id) DO NOTHING RETURNING id INTO v_id;
  IF v_id IS NULL THEN
    SELECT id, request_data = p_request_data INTO v_id, v_same FROM assessments.assessment_states
     WHERE assessment_id = p_assessment_id;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'assessment % was created or deleted meanwhile; try again', quote_literal(p_assessment_id)
        USING ERRCODE = 'serialization_failure';
    ELSIF NOT v_same THEN
      RAISE EXCEPTION 'assessment % exists with another request', quote_literal(p_assessment_id)
        USING ERRCODE = 'unique_violation', CONSTRAINT = 'idx_assessment_states_assessment_id';
    END IF;
  END IF;
  RETURN v_id;
END $$;

CREATE FUNCTION assessments.update_assessment_state(
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
  v_reason text := coalesce(p_change_reason, nullif(v_said_reason, ''));
BEGIN
  IF num_nulls(p_assessment_id, p_new_state, p_version) > 0 THEN
    RAISE EXCEPTION 'assessment_id, new state and expected version must be given'
      USING ERRCODE = 'null_value_not_allowed';
  END IF;
  SELECT id, state, version INTO v_old FROM assessments.assessment_states
   WHERE assessment_id = p_assessment_id FOR NO KEY UPDATE;
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
  v_action := coalesce(nullif(v_said_action, ''), CASE
    WHEN v_old.state = p_new_state THEN 'update' WHEN v_starts THEN 'claim' WHEN p_new_state = 'completed' THEN 'complete'
    WHEN p_new_state = 'failed' THEN 'fail' WHEN p_new_state = 'cancelled' THEN 'cancel'
    WHEN v_old.state = 'failed' THEN 'retry' ELSE 'release' END);
  -- Said by row and by session: the trigger takes the row's word only where it differs from the last change's.
  PERFORM set_config('gristmill.changed_by', coalesce(p_changed_by, v_said_by), true),
          set_config('gristmill.change_action', v_action, true),
          set_config('gristmill.change_reason', coalesce(v_reason, ''), true);
  UPDATE assessments.assessment_states SET
    state = p_new_state,
    version = version + 1,
    result_data = coalesce(nullif(p_result_data, 'null'), result_data),
    error_message = coalesce(p_error_message, error_message),
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
  PERFORM set_config('gristmill.changed_by', v_said_by, true),
          set_config('gristmill.change_action', v_said_action, true),
          set_config('gristmill.change_reason', v_said_reason, true);
  RETURN true;
END $$;

CREATE FUNCTION assessments.cleanup_old_assessments(
  p_retention_days integer DEFAULT 30, p_batch_size integer DEFAULT 1000
) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Delete one batch of assessments that ended this long ago, oldest first, and return how many; repeat until 0.
-- What somebody holds right now is left for the next batch.
DECLARE
  v_deleted integer;
BEGIN
  IF p_retention_days IS NULL OR p_retention_days < 0 OR p_batch_size IS NULL OR p_batch_size < 1 THEN
    RAISE EXCEPTION 'retention must be 0 days or more and a batch 1 row or more, got % and %', p_retention_days,
      p_batch_size USING ERRCODE = 'invalid_parameter_value';
  END IF;
  DELETE FROM assessments.assessment_states WHERE id = ANY (ARRAY(
    SELECT id FROM assessments.assessment_states
     WHERE completed_at < now() - make_interval(days => p_retention_days)
       AND state IN ('completed', 'failed', 'cancelled')
     ORDER BY completed_at LIMIT p_batch_size FOR UPDATE SKIP LOCKED));
  GET DIAGNOSTICS v_deleted = ROW_COUNT;
  RETURN v_deleted;
END $$;

CREATE FUNCTION assessments.put_cached_state(
  p_assessment_id varchar(255), p_state_data jsonb, p_ttl_seconds integer DEFAULT 60
) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO assessments.assessment_state_cache AS c (assessment_id, state_data, expires_at)
  VALUES (p_assessment_id, p_state_data, now() + make_interval(secs => p_ttl_seconds))
  ON CONFLICT (assessment_id) DO UPDATE SET state_data = excluded.state_data, expires_at = excluded.expires_at,
    last_accessed = now()
$$;

CREATE FUNCTION assessments.get_cached_state(p_assessment_id varchar(255)) RETURNS jsonb
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  -- What was put and has not expired, counted as one access; null if there is nothing.
  UPDATE assessments.assessment_state_cache SET access_count = access_count + 1, last_accessed = now()
   WHERE assessment_id = p_assessment_id AND expires_at > now() RETURNING state_data
$$;
