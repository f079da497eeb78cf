-- The functions as revisions 0001 and 0007 made them.

CREATE OR REPLACE FUNCTION runtime.rebuild_jobs_view() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_branches text;
BEGIN
  SELECT string_agg(jobs_branch, ' UNION ALL ' ORDER BY table_name) INTO v_branches FROM runtime.lifecycles;
  DROP VIEW IF EXISTS runtime.jobs;
  IF v_branches IS NOT NULL THEN
    EXECUTE 'CREATE VIEW runtime.jobs WITH (security_invoker = true) AS ' || v_branches;
    IF to_regrole('gristmill_service') IS NOT NULL THEN GRANT SELECT ON runtime.jobs TO gristmill_service; END IF;
    IF to_regrole('gristmill_worker') IS NOT NULL THEN GRANT SELECT ON runtime.jobs TO gristmill_worker; END IF;
  END IF;
END $$;

CREATE OR REPLACE FUNCTION runtime.grant_process_rights() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Give gristmill_dispatcher what the leading dispatcher and beat need of every job table: to read, to enqueue, and to
-- write the columns by which tickets are given and lost runs are freed, whatever each table calls them. Of what a job
-- refers to, its id and its owner: whose the job is follows from it.
DECLARE
  v_table record;
  v_columns text;
  v_policy text;
  v_function regprocedure;
  v_origin record;
BEGIN
  IF to_regrole('gristmill_dispatcher') IS NULL THEN RETURN; END IF;
  FOR v_table IN SELECT c.oid, n.nspname, c.relname FROM runtime.lifecycles AS l
                   JOIN pg_namespace AS n ON n.nspname = split_part(l.table_name, '.', 1)
                   JOIN pg_class AS c ON c.relnamespace = n.oid AND l.table_name = n.nspname || '.' || c.relname
                  ORDER BY l.table_name LOOP
    SELECT string_agg(quote_ident(attname), ', ') INTO v_columns FROM pg_attribute
     WHERE attrelid = v_table.oid AND attnum > 0 AND NOT attisdropped
       AND attname IN ('status', 'state', 'version', 'retry_count', 'due_at', 'next_retry_at', 'progress',
                       'dispatched_at', 'lease_owner', 'deadline_at', 'started_at', 'completed_at', 'ended_in',
                       'updated_at', 'updatedAt', 'error_message', 'error', 'change_action', 'change_reason');
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

DROP FUNCTION runtime.decide(uuid, integer, text, text, timestamptz);
DROP FUNCTION runtime.tell_done(text, text[]);
DO $$ BEGIN
  IF to_regrole('gristmill_gateway') IS NOT NULL THEN
    REVOKE SELECT ON runtime.lifecycles FROM gristmill_gateway;
  END IF;
END $$;
