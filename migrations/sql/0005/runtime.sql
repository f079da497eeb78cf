-- Who acts, who may act for everybody, and what a service may do to its own jobs.

CREATE FUNCTION runtime.actor_id() RETURNS uuid LANGUAGE plpgsql STABLE PARALLEL SAFE
  SET search_path = pg_catalog, pg_temp AS $$
-- The tenant for whom this transaction speaks, as `SET LOCAL gristmill.user_id` says; null for nobody.
BEGIN
  RETURN nullif(current_setting('gristmill.user_id', true), '')::uuid;
EXCEPTION WHEN invalid_text_representation THEN
  RAISE EXCEPTION 'gristmill.user_id must be a UUID, got %', quote_literal(left(current_setting('gristmill.user_id', true), 50))
    USING ERRCODE = 'invalid_parameter_value';
END $$;

CREATE FUNCTION runtime.caller_role() RETURNS name LANGUAGE sql STABLE PARALLEL SAFE
  SET search_path = pg_catalog, pg_temp AS $$
  -- The role that the client has, also within a function that runs with its owner's rights.
  SELECT coalesce(nullif(current_setting('role', true), 'none'), session_user)::name
$$;

CREATE FUNCTION runtime.is_trusted() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
  SET search_path = pg_catalog, pg_temp AS $$
  -- Whether the client is one of Gristmill's own processes, an operator, or the owner of the tables.
  SELECT coalesce(pg_has_role(runtime.caller_role(), to_regrole('gristmill_worker'), 'MEMBER'), false)
      OR pg_has_role(runtime.caller_role(), (SELECT nspowner FROM pg_namespace WHERE nspname = 'runtime'), 'MEMBER')
$$;

CREATE FUNCTION runtime.cancel(p_job_id uuid, p_reason text DEFAULT NULL) RETURNS boolean
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Cancel a job of the acting tenant, ready or running; false where it had ended. An operator may cancel any.
DECLARE
  v_table record;
  v_done integer;
  v_is_trusted boolean := runtime.is_trusted();
BEGIN
  IF p_job_id IS NULL THEN
    RAISE EXCEPTION 'job_id must be given' USING ERRCODE = 'null_value_not_allowed';
  END IF;
  FOR v_table IN SELECT table_name, cancel_statement FROM runtime.lifecycles ORDER BY table_name LOOP
    EXECUTE v_table.cancel_statement USING p_job_id, coalesce(left(p_reason, 1000), 'cancelled by ' || runtime.caller_role()),
      v_is_trusted;
    GET DIAGNOSTICS v_done = ROW_COUNT;
    IF v_done > 0 THEN RETURN true; END IF;
  END LOOP;
  RETURN false;
END $$;

CREATE FUNCTION runtime.can_read_job(p_job_id uuid, p_stage text) RETURNS boolean LANGUAGE plpgsql STABLE
  SET search_path = pg_catalog, pg_temp AS $$
-- Whether the caller sees this job of this stage's table: the policy of its history. With the caller's own rights.
BEGIN
  RETURN EXISTS (SELECT FROM runtime.jobs AS j JOIN runtime.stages AS s ON s.table_name = j.table_name
                  WHERE j.id = p_job_id AND s.name = p_stage);
END $$;

CREATE OR REPLACE FUNCTION runtime.drop_transition_partitions(p_older_than interval) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Drop the months that ended before the cutoff and return their names; dropping a month costs no vacuum. History of the
-- last month is nobody's to drop.
DECLARE
  v_name text;
  v_dropped text[] := '{}';
BEGIN
  IF p_older_than IS NULL OR now() - p_older_than > now() - interval '31 days' THEN
    RAISE EXCEPTION 'history must be kept for 31 days or more, got %', p_older_than
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  PERFORM pg_advisory_xact_lock('runtime.transitions'::regclass::bigint);
  FOR v_name IN
    SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'runtime.transitions'::regclass AND c.relname ~ '^transitions_\d{4}_\d{2}$'
       AND (to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month') AT TIME ZONE 'UTC' < now() - p_older_than
  LOOP
    EXECUTE format('DROP TABLE runtime.%I', v_name);
    v_dropped := v_dropped || v_name;
  END LOOP;
  RETURN v_dropped;
END $$;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA runtime FROM PUBLIC;
-- Every role may ask who it is: defaults and policies do.
GRANT EXECUTE ON FUNCTION runtime.actor_id(), runtime.caller_role(), runtime.is_trusted() TO PUBLIC;

ALTER TABLE runtime.transitions ENABLE ROW LEVEL SECURITY;

DO $$ BEGIN
  IF to_regrole('gristmill_service') IS NOT NULL THEN
    GRANT SELECT ON runtime.transitions TO gristmill_service;
    CREATE POLICY transitions_of_own_jobs ON runtime.transitions FOR SELECT TO gristmill_service
      USING (runtime.can_read_job(job_id, stage));
    GRANT EXECUTE ON FUNCTION runtime.cancel(uuid, text), runtime.can_read_job(uuid, text), runtime.has_worker(text)
      TO gristmill_service;
  END IF;
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    -- History is written by the tables' guards alone.
    REVOKE INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA runtime FROM gristmill_worker;
    GRANT INSERT, UPDATE, DELETE ON runtime.workers, runtime.dispatcher, runtime.schedules, runtime.ticks
      TO gristmill_worker;
    GRANT UPDATE (limit_at_most, paused_at, paused_by) ON runtime.stages TO gristmill_worker;
    CREATE POLICY transitions_workers ON runtime.transitions FOR SELECT TO gristmill_worker USING (true);
    GRANT EXECUTE ON FUNCTION runtime.cancel(uuid, text), runtime.can_read_job(uuid, text), runtime.has_worker(text),
      runtime.ensure_transition_partitions(integer), runtime.drop_transition_partitions(interval) TO gristmill_worker;
  END IF;
END $$;

CREATE FUNCTION runtime.refuse_key(p_key text, p_first uuid, p_differs text[]) RETURNS void LANGUAGE plpgsql
  SET search_path = pg_catalog, pg_temp AS $$
-- Raise where a repeated key asks for something else than the first job does, naming what differs.
BEGIN
  IF p_first IS NULL THEN
    RAISE EXCEPTION 'idempotency_key is taken by a job that was deleted meanwhile, got %; try again', quote_literal(p_key)
      USING ERRCODE = 'serialization_failure';
  ELSIF cardinality(p_differs) > 0 THEN
    RAISE EXCEPTION 'idempotency_key is taken by a job with another %, got %', array_to_string(p_differs, ', '),
      quote_literal(p_key) USING ERRCODE = 'unique_violation';
  END IF;
END $$;
REVOKE EXECUTE ON FUNCTION runtime.refuse_key(text, uuid, text[]) FROM PUBLIC;
DO $$ BEGIN
  IF to_regrole('gristmill_service') IS NOT NULL THEN
    GRANT EXECUTE ON FUNCTION runtime.refuse_key(text, uuid, text[]) TO gristmill_service;
  END IF;
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    GRANT EXECUTE ON FUNCTION runtime.refuse_key(text, uuid, text[]) TO gristmill_worker;
  END IF;
END $$;
