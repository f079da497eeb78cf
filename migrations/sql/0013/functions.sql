CREATE OR REPLACE FUNCTION runtime.context_of(p_said text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
-- The context that a session says, as history keeps it. Of one that is too large or that no reader of JSON can have,
-- only the beginning is kept. Called by the guards, once per statement.
BEGIN
  IF p_said IS NULL OR p_said = '' THEN
    RETURN NULL;
  ELSIF octet_length(p_said) > 65536 OR length(translate(p_said, '[{', '')) < length(p_said) - 2000
        OR NOT pg_input_is_valid(p_said, 'runtime.context') THEN
    RETURN jsonb_build_object('cut', left(p_said, 1000));
  END IF;
  RETURN p_said::jsonb;
END $$;
REVOKE EXECUTE ON FUNCTION runtime.context_of(text) FROM PUBLIC;

-- What a statement that ends jobs, or has jobs begin to wait, tells those who listen on gristmill_done.

CREATE OR REPLACE FUNCTION runtime.tell_done(table_name text, moved text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Send one notification: the table, and as many jobs as fit, each as id:version. Where the payload is longer than 7,800
-- bytes, some may be left out, and who listens looks at all jobs of that table that it follows. Called by the guards
-- only, once per statement. If the queue of notifications is half full, none is sent: a full one would make the commit
-- fail.
DECLARE
  v_payload text := table_name || ' ' || array_to_string(moved, ' ');
BEGIN
  IF pg_notification_queue_usage() >= 0.5 THEN RETURN; END IF;
  IF octet_length(v_payload) > 7900 THEN
    -- What is cut in the middle is left out; all but the table's name is one byte per character.
    v_payload := regexp_replace(left(v_payload, 7901 - octet_length(table_name) + length(table_name)), ' [^ ]*$', '');
  END IF;
  PERFORM pg_notify('gristmill_done', v_payload);
END $$;
REVOKE EXECUTE ON FUNCTION runtime.tell_done(text, text[]) FROM PUBLIC;

CREATE OR REPLACE FUNCTION runtime.decide(
  p_job_id uuid, p_version integer, p_into text, p_reason text DEFAULT NULL, p_until timestamptz DEFAULT NULL
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Decide what the job waits for: it leaves the wait for the state p_into. False where the caller may not decide, the
-- job has another version, does not wait or waited too long, or no decision of this wait leads to that state. p_until
-- is the deadline of a further wait.
DECLARE
  v_table record;
  v_done integer;
  v_is_trusted boolean := runtime.is_trusted();
BEGIN
  IF num_nulls(p_job_id, p_version, p_into) > 0 THEN
    RAISE EXCEPTION 'job_id, version and into must be given' USING ERRCODE = 'null_value_not_allowed';
  END IF;
  FOR v_table IN SELECT decide_statement FROM runtime.lifecycles WHERE decide_statement IS NOT NULL ORDER BY table_name
  LOOP
    EXECUTE v_table.decide_statement USING p_job_id, p_version, p_into,
      coalesce(left(p_reason, 1000), 'decided by ' || runtime.caller_role()), p_until, v_is_trusted;
    GET DIAGNOSTICS v_done = ROW_COUNT;
    IF v_done > 0 THEN RETURN true; END IF;
  END LOOP;
  RETURN false;
END $$;
REVOKE EXECUTE ON FUNCTION runtime.decide(uuid, integer, text, text, timestamptz) FROM PUBLIC;

CREATE OR REPLACE FUNCTION runtime.rebuild_jobs_view() RETURNS void LANGUAGE plpgsql AS $$
-- Make runtime.jobs of the branches of all job tables. Each says which name is shown for a state.
DECLARE
  v_branches text;
BEGIN
  SELECT string_agg(format('SELECT b.*, %s AS shown_as FROM (%s) AS b',
                           CASE WHEN shown_as = '{}' THEN 'b.status'
                                ELSE format('coalesce(%L::jsonb ->> b.status, b.status)', shown_as) END,
                           jobs_branch), ' UNION ALL ' ORDER BY table_name) INTO v_branches FROM runtime.lifecycles;
  DROP VIEW IF EXISTS runtime.jobs;
  IF v_branches IS NOT NULL THEN
    EXECUTE 'CREATE VIEW runtime.jobs WITH (security_invoker = true) AS ' || v_branches;
    IF to_regrole('gristmill_service') IS NOT NULL THEN GRANT SELECT ON runtime.jobs TO gristmill_service; END IF;
    IF to_regrole('gristmill_worker') IS NOT NULL THEN GRANT SELECT ON runtime.jobs TO gristmill_worker; END IF;
  END IF;
END $$;

CREATE OR REPLACE FUNCTION runtime.grant_process_rights() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Give gristmill_dispatcher what the leading dispatcher and beat need of every job table: to read, to enqueue, and to
-- write the columns by which tickets are given, lost runs are freed and waits expire, whatever each table calls them. Of
-- what a job refers to, its id and its owner: whose the job is follows from it.
DECLARE
  v_table record;
  v_columns text;
  v_policy text;
  v_function regprocedure;
  v_origin record;
BEGIN
  IF to_regrole('gristmill_dispatcher') IS NULL THEN RETURN; END IF;
  FOR v_table IN SELECT c.oid, n.nspname, c.relname, l.wait_column FROM runtime.lifecycles AS l
                   JOIN pg_namespace AS n ON n.nspname = split_part(l.table_name, '.', 1)
                   JOIN pg_class AS c ON c.relnamespace = n.oid AND l.table_name = n.nspname || '.' || c.relname
                  ORDER BY l.table_name LOOP
    SELECT string_agg(quote_ident(attname), ', ') INTO v_columns FROM pg_attribute
     WHERE attrelid = v_table.oid AND attnum > 0 AND NOT attisdropped
       AND (attname = trim('"' FROM v_table.wait_column) OR attname IN ('status', 'state', 'version', 'retry_count', 'due_at', 'next_retry_at', 'progress',
                       'dispatched_at', 'lease_owner', 'deadline_at', 'started_at', 'completed_at', 'ended_in',
                       'updated_at', 'updatedAt', 'error_message', 'error', 'change_action', 'change_reason'));
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO gristmill_dispatcher', v_table.nspname);
    EXECUTE format('GRANT SELECT, INSERT ON %I.%I TO gristmill_dispatcher', v_table.nspname, v_table.relname);
    EXECUTE format('GRANT UPDATE (%s) ON %I.%I TO gristmill_dispatcher', v_columns, v_table.nspname, v_table.relname);
    v_policy := v_table.relname || '_dispatcher';
    IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = v_table.oid AND polname = v_policy) THEN
      EXECUTE format('CREATE POLICY %I ON %I.%I FOR ALL TO gristmill_dispatcher USING (true)', v_policy,
                     v_table.nspname, v_table.relname);
    END IF;
    v_function := to_regprocedure(format('%I.%I(%I.%I)', v_table.nspname, 'owner_of_' || v_table.relname,
                                         v_table.nspname, v_table.relname));
    IF v_function IS NOT NULL THEN
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO gristmill_dispatcher', v_function);
    END IF;
    FOR v_origin IN
      SELECT c.oid, n.nspname, c.relname, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) AS columns
        FROM pg_constraint AS f JOIN pg_class AS c ON c.oid = f.confrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname IN ('id', 'owner_id', 'ownerId')
       WHERE f.conrelid = v_table.oid AND f.contype = 'f' GROUP BY c.oid, n.nspname, c.relname
    LOOP
      EXECUTE format('GRANT SELECT (%s) ON %I.%I TO gristmill_dispatcher', v_origin.columns, v_origin.nspname,
                     v_origin.relname);
      v_policy := v_origin.relname || '_dispatcher';
      IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = v_origin.oid AND polname = v_policy) THEN
        EXECUTE format('CREATE POLICY %I ON %I.%I FOR SELECT TO gristmill_dispatcher USING (true)', v_policy,
                       v_origin.nspname, v_origin.relname);
      END IF;
    END LOOP;
  END LOOP;
END $$;

DO $$ BEGIN
  IF to_regrole('gristmill_service') IS NOT NULL THEN
    GRANT EXECUTE ON FUNCTION runtime.decide(uuid, integer, text, text, timestamptz) TO gristmill_service;
  END IF;
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    GRANT EXECUTE ON FUNCTION runtime.decide(uuid, integer, text, text, timestamptz) TO gristmill_worker;
  END IF;
  IF to_regrole('gristmill_gateway') IS NOT NULL THEN
    GRANT SELECT ON runtime.lifecycles TO gristmill_gateway;
  END IF;
END $$;
