-- The older functions follow the same rule of repeated keys.

CREATE OR REPLACE FUNCTION scoring.enqueue_score(
  p_profile_id uuid, p_prompt text, p_model_name text DEFAULT 'gpt-3.5-turbo', p_priority integer DEFAULT 5,
  p_due_at timestamptz DEFAULT NULL, p_idempotency_key text DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Enqueue one scoring job in the caller's transaction. A key that its owner has used returns the first job, if that
-- was asked the same.
DECLARE
  v record;
BEGIN
  SELECT * INTO v FROM runtime.put_jobs('scoring.score', jsonb_build_array(jsonb_build_object(
    'profile_id', p_profile_id, 'prompt', p_prompt, 'model_name', p_model_name, 'priority', coalesce(p_priority, 5),
    'due_at', p_due_at, 'idempotency_key', p_idempotency_key)), ARRAY[false]);
  PERFORM runtime.refuse_key(p_idempotency_key, v.id, v.differs);
  RETURN v.id;
END $$;

CREATE OR REPLACE FUNCTION operations.enqueue_analytics(
  p_project_id uuid, p_type operations."RecordType" DEFAULT NULL, p_model_name text DEFAULT NULL,
  p_priority integer DEFAULT 5, p_idempotency_key text DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Enqueue the analysis of a project (of one type of its records, if given), in the caller's transaction. A key that the
-- project's owner has used returns the first job, if that was asked the same.
DECLARE
  v record;
BEGIN
  IF p_idempotency_key IS NOT NULL AND NOT (operations.may_change(p_project_id) OR runtime.is_trusted()) THEN
    RAISE EXCEPTION 'idempotency_key must be given by who may change the project, got %', quote_literal(left(p_idempotency_key, 80))
      USING ERRCODE = 'insufficient_privilege', HINT = 'enqueue without a key';
  END IF;
  SELECT * INTO v FROM runtime.put_jobs('analytics.align', jsonb_build_array(jsonb_build_object(
    'projectId', p_project_id, 'type', p_type, 'modelName', p_model_name, 'priority', coalesce(p_priority, 5),
    'idempotency_key', p_idempotency_key)), ARRAY[false]);
  PERFORM runtime.refuse_key(p_idempotency_key, v.id, v.differs);
  RETURN v.id;
END $$;
