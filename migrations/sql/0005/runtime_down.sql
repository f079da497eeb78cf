DO $$ BEGIN
  IF to_regrole('gristmill_service') IS NOT NULL THEN
    DROP POLICY transitions_of_own_jobs ON runtime.transitions;
    REVOKE ALL ON runtime.transitions FROM gristmill_service;
  END IF;
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    DROP POLICY transitions_workers ON runtime.transitions;
    GRANT SELECT, INSERT, UPDATE, DELETE ON runtime.transitions, runtime.transitions_default, runtime.lifecycles,
      runtime.stages TO gristmill_worker;
  END IF;
END $$;
ALTER TABLE runtime.transitions DISABLE ROW LEVEL SECURITY;
DROP FUNCTION runtime.refuse_key(text, uuid, text[]);
DROP FUNCTION runtime.can_read_job(uuid, text);
DROP FUNCTION runtime.cancel(uuid, text);
DROP FUNCTION runtime.is_trusted();
DROP FUNCTION runtime.caller_role();
DROP FUNCTION runtime.actor_id();
GRANT EXECUTE ON FUNCTION runtime.refuse_transition(text, uuid, text), runtime.has_worker(text),
  runtime.rebuild_jobs_view() TO PUBLIC;

CREATE OR REPLACE FUNCTION runtime.drop_transition_partitions(p_older_than interval) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Drop the months that ended before the cutoff and return their names; dropping a month costs no vacuum.
DECLARE
  v_name text;
  v_dropped text[] := '{}';
BEGIN
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
