-- One group role per kind of process. Logins are made by `gristmill migrate --roles`, or by hand as members of these.

DO $$
DECLARE
  v_role text;
BEGIN
  FOREACH v_role IN ARRAY ARRAY['gristmill_dispatcher', 'gristmill_operator', 'gristmill_gateway'] LOOP
    IF to_regrole(v_role) IS NULL THEN EXECUTE format('CREATE ROLE %I NOLOGIN', v_role); END IF;
  END LOOP;
  -- An operator may all that a worker may, and more; a gateway speaks for users as every service does.
  IF NOT pg_has_role('gristmill_operator', 'gristmill_worker', 'MEMBER') THEN
    GRANT gristmill_worker TO gristmill_operator;
  END IF;
  IF NOT pg_has_role('gristmill_gateway', 'gristmill_service', 'MEMBER') THEN
    GRANT gristmill_service TO gristmill_gateway;
  END IF;
EXCEPTION
  WHEN insufficient_privilege OR undefined_object THEN
    RAISE NOTICE 'roles gristmill_dispatcher, gristmill_operator and gristmill_gateway were not created';
  WHEN duplicate_object OR unique_violation THEN NULL;
END $$;

CREATE FUNCTION runtime.grant_process_rights() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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

CREATE FUNCTION runtime.follow_lifecycles() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- A table that becomes a job table can be dispatched at once.
BEGIN
  PERFORM runtime.grant_process_rights();
  RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION runtime.grant_process_rights, runtime.follow_lifecycles FROM PUBLIC;
CREATE TRIGGER grant_process_rights AFTER INSERT OR UPDATE ON runtime.lifecycles
  FOR EACH STATEMENT EXECUTE FUNCTION runtime.follow_lifecycles();
SELECT runtime.grant_process_rights();

REVOKE ALL ON runtime.security, runtime.actor_keys, runtime.role_actors FROM PUBLIC;
DO $$
DECLARE
  v_role text;
BEGIN
  FOREACH v_role IN ARRAY ARRAY['gristmill_service', 'gristmill_worker', 'gristmill_dispatcher'] LOOP
    IF to_regrole(v_role) IS NOT NULL THEN
      EXECUTE format('GRANT EXECUTE ON FUNCTION runtime.actor_id TO %I', v_role);
    END IF;
  END LOOP;
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    -- It runs jobs. Who leads, what is scheduled or paused and what happened is written by others.
    REVOKE INSERT, UPDATE, DELETE ON runtime.dispatcher, runtime.schedules FROM gristmill_worker;
    REVOKE UPDATE (limit_at_most, paused_at, paused_by) ON runtime.stages FROM gristmill_worker;
    REVOKE INSERT, UPDATE ON runtime.ticks FROM gristmill_worker;
    REVOKE EXECUTE ON FUNCTION runtime.ensure_transition_partitions, runtime.drop_transition_partitions
      FROM gristmill_worker;
  END IF;
  IF to_regrole('gristmill_dispatcher') IS NOT NULL THEN
    GRANT USAGE ON SCHEMA runtime TO gristmill_dispatcher;
    GRANT SELECT, INSERT, UPDATE ON runtime.dispatcher, runtime.schedules, runtime.ticks TO gristmill_dispatcher;
    GRANT USAGE ON SEQUENCE runtime.dispatcher_terms TO gristmill_dispatcher;
    GRANT SELECT ON runtime.stages, runtime.workers, runtime.lifecycles TO gristmill_dispatcher;
    GRANT UPDATE (limit_at_most) ON runtime.stages TO gristmill_dispatcher;
    GRANT SELECT ON public.alembic_version TO gristmill_dispatcher;
    GRANT EXECUTE ON FUNCTION runtime.ensure_transition_partitions, runtime.drop_transition_partitions
      TO gristmill_dispatcher;
  END IF;
  IF to_regrole('gristmill_operator') IS NOT NULL THEN
    GRANT USAGE ON SCHEMA runtime TO gristmill_operator;
    GRANT INSERT, UPDATE, DELETE ON runtime.stages, runtime.schedules, runtime.ticks TO gristmill_operator;
    GRANT SELECT ON runtime.security, runtime.role_actors TO gristmill_operator;
    GRANT EXECUTE ON FUNCTION runtime.ensure_transition_partitions, runtime.drop_transition_partitions
      TO gristmill_operator;
  END IF;
  IF to_regrole('gristmill_gateway') IS NOT NULL THEN
    GRANT USAGE ON SCHEMA runtime TO gristmill_gateway;
    GRANT SELECT ON runtime.dispatcher, runtime.schedules TO gristmill_gateway;
    GRANT SELECT ON public.alembic_version TO gristmill_gateway;
  END IF;
END $$;
