-- What the revisions before made of rights and functions.

DROP TRIGGER grant_process_rights ON runtime.lifecycles;
DROP FUNCTION runtime.follow_lifecycles(), runtime.grant_process_rights();

DROP TRIGGER choose_actor_id ON runtime.security;
DROP TRIGGER choose_actor_id ON runtime.role_actors;
DROP FUNCTION runtime.choose_actor_id();

CREATE OR REPLACE FUNCTION runtime.actor_id() RETURNS uuid LANGUAGE plpgsql STABLE PARALLEL SAFE
  SET search_path = pg_catalog, pg_temp AS $$
-- The tenant for whom this transaction speaks, as `SET LOCAL gristmill.user_id` says; null for nobody.
BEGIN
  RETURN nullif(current_setting('gristmill.user_id', true), '')::uuid;
EXCEPTION WHEN invalid_text_representation THEN
  RAISE EXCEPTION 'gristmill.user_id must be a UUID, got %', quote_literal(left(current_setting('gristmill.user_id', true), 50))
    USING ERRCODE = 'invalid_parameter_value';
END $$;
GRANT EXECUTE ON FUNCTION runtime.actor_id() TO PUBLIC;

CREATE OR REPLACE FUNCTION runtime.is_trusted() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
  SET search_path = pg_catalog, pg_temp AS $$
  -- Whether the client is one of Gristmill's own processes, an operator, or the owner of the tables.
  SELECT coalesce(pg_has_role(runtime.caller_role(), to_regrole('gristmill_worker'), 'MEMBER'), false)
      OR pg_has_role(runtime.caller_role(), (SELECT nspowner FROM pg_namespace WHERE nspname = 'runtime'), 'MEMBER')
$$;

DROP FUNCTION runtime.check_actor_signature(uuid, text), runtime.actor_signature(bytea, bytea, uuid, bigint);

CREATE OR REPLACE FUNCTION runtime.ensure_transition_partitions(p_months_ahead integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Make the partitions of this month and the next ones; move rows that already fell into the default partition.
DECLARE
  v_from timestamptz;
  v_to timestamptz;
  v_name text;
  v_made integer := 0;
BEGIN
  PERFORM pg_advisory_xact_lock('runtime.transitions'::regclass::bigint);  -- two at once would make a month twice
  FOR i IN 0..p_months_ahead LOOP
    v_from := (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i)) AT TIME ZONE 'UTC';
    v_to := (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i + 1)) AT TIME ZONE 'UTC';
    v_name := 'transitions_' || to_char(v_from AT TIME ZONE 'UTC', 'YYYY_MM');
    CONTINUE WHEN to_regclass('runtime.' || v_name) IS NOT NULL;
    EXECUTE format(
      'CREATE TABLE runtime.%I (LIKE runtime.transitions INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', v_name);
    EXECUTE format(
      'WITH moved AS (DELETE FROM runtime.transitions_default WHERE created_at >= %L AND created_at < %L RETURNING *)
       INSERT INTO runtime.%I SELECT * FROM moved', v_from, v_to, v_name);
    EXECUTE format('ALTER TABLE runtime.transitions ATTACH PARTITION runtime.%I FOR VALUES FROM (%L) TO (%L)', v_name,
      v_from, v_to);
    v_made := v_made + 1;
  END LOOP;
  RETURN v_made;
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

DO $$
DECLARE
  v_table record;
BEGIN
  FOR v_table IN SELECT polrelid::regclass AS of, polname FROM pg_policy
                  WHERE polrelid::regclass::text || '_dispatcher' LIKE '%' || polname LOOP
    EXECUTE format('DROP POLICY %I ON %s', v_table.polname, v_table.of);
  END LOOP;
  -- Only where they have rights: a REVOKE writes down rights that were a default before.
  FOR v_table IN
    SELECT r.rolname AS role, CASE c.relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || c.oid::regclass AS thing
      FROM pg_class AS c CROSS JOIN pg_roles AS r
     WHERE r.rolname IN ('gristmill_dispatcher', 'gristmill_operator', 'gristmill_gateway')
       AND (EXISTS (SELECT FROM aclexplode(c.relacl) WHERE grantee = r.oid)
            OR EXISTS (SELECT FROM pg_attribute AS a, aclexplode(a.attacl)
                        WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL AND grantee = r.oid))
    UNION ALL
    SELECT r.rolname, 'FUNCTION ' || p.oid::regprocedure FROM pg_proc AS p CROSS JOIN pg_roles AS r
     WHERE r.rolname IN ('gristmill_dispatcher', 'gristmill_operator', 'gristmill_gateway')
       AND EXISTS (SELECT FROM aclexplode(p.proacl) WHERE grantee = r.oid)
    UNION ALL
    SELECT r.rolname, 'SCHEMA ' || quote_ident(n.nspname) FROM pg_namespace AS n CROSS JOIN pg_roles AS r
     WHERE r.rolname IN ('gristmill_dispatcher', 'gristmill_operator', 'gristmill_gateway')
       AND EXISTS (SELECT FROM aclexplode(n.nspacl) WHERE grantee = r.oid)
  LOOP
    EXECUTE format('REVOKE ALL ON %s FROM %I', v_table.thing, v_table.role);
  END LOOP;
  IF to_regrole('gristmill_service') IS NOT NULL THEN
    REVOKE EXECUTE ON FUNCTION runtime.actor_id() FROM gristmill_service;
  END IF;
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    REVOKE EXECUTE ON FUNCTION runtime.actor_id() FROM gristmill_worker;
    GRANT INSERT, UPDATE, DELETE ON runtime.dispatcher, runtime.schedules TO gristmill_worker;
    GRANT UPDATE (limit_at_most, paused_at, paused_by) ON runtime.stages TO gristmill_worker;
    GRANT INSERT, UPDATE ON runtime.ticks TO gristmill_worker;
    GRANT EXECUTE ON FUNCTION runtime.ensure_transition_partitions, runtime.drop_transition_partitions
      TO gristmill_worker;
  END IF;
END $$;
