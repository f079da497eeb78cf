-- Gates: which jobs the dispatcher keeps back, why and until when, as the leader last found.

CREATE TABLE runtime.gates (
  id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_gates PRIMARY KEY,
  stage varchar(100) NOT NULL,
  key text CONSTRAINT ck_gates_key CHECK (octet_length(key) <= 1024),
  free integer NOT NULL CONSTRAINT ck_gates_free CHECK (free >= 0),
  until timestamptz CONSTRAINT ck_gates_until CHECK (isfinite(until) AND until < '10000-01-01'),
  reason text NOT NULL CONSTRAINT ck_gates_reason CHECK (octet_length(reason) <= 8192),
  since timestamptz NOT NULL DEFAULT clock_timestamp()
    CONSTRAINT ck_gates_since CHECK (isfinite(since) AND since < '10000-01-01'),
  CONSTRAINT uq_gates_stage_key UNIQUE NULLS NOT DISTINCT (stage, key)
);
REVOKE ALL ON runtime.gates FROM PUBLIC;

-- The column whose value decides which gate a job of this table waits at, quoted; NULL where all wait at one.
ALTER TABLE runtime.lifecycles ADD COLUMN gate_column text;

CREATE FUNCTION runtime.gate_told(p_stage text, p_key text) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- What keeps a ready job of p_stage with p_key back, for runtime.jobs; NULL if nothing does. A caller must know the key:
-- tenants do not see the keys of others.
  SELECT CASE WHEN g.free > 0 THEN 'limited: ' ELSE 'held back: ' END || g.reason
         || CASE WHEN g.free = 0 AND g.until > now()
                 THEN ', until ' || to_char(g.until AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"') ELSE '' END
    FROM runtime.gates AS g WHERE g.stage = p_stage AND (g.key = p_key OR g.key IS NULL)
   ORDER BY g.key NULLS LAST LIMIT 1
$$;
REVOKE EXECUTE ON FUNCTION runtime.gate_told(text, text) FROM PUBLIC;

CREATE OR REPLACE FUNCTION runtime.rebuild_jobs_view() RETURNS void LANGUAGE plpgsql AS $$
-- Make runtime.jobs of the branches of all job tables. Each says which name is shown for a state, and which gate keeps a
-- ready job back.
DECLARE
  v_branches text;
BEGIN
  SELECT string_agg(format('SELECT b.*, %s AS shown_as FROM (%s) AS b',
                           CASE WHEN shown_as = '{}' THEN 'b.status'
                                ELSE format('coalesce(%L::jsonb ->> b.status, b.status)', shown_as) END,
                           replace(jobs_branch, 'ELSE ''ready, waiting for the dispatcher''',
                                   format('ELSE coalesce(runtime.gate_told(s.name, %s), '
                                          '''ready, waiting for the dispatcher'')',
                                          coalesce('j.' || gate_column || '::text', 'NULL')))),
                    ' UNION ALL ' ORDER BY table_name) INTO v_branches FROM runtime.lifecycles;
  DROP VIEW IF EXISTS runtime.jobs;
  IF v_branches IS NOT NULL THEN
    EXECUTE 'CREATE VIEW runtime.jobs WITH (security_invoker = true) AS ' || v_branches;
    IF to_regrole('gristmill_service') IS NOT NULL THEN GRANT SELECT ON runtime.jobs TO gristmill_service; END IF;
    IF to_regrole('gristmill_worker') IS NOT NULL THEN GRANT SELECT ON runtime.jobs TO gristmill_worker; END IF;
  END IF;
END $$;

DO $$ BEGIN
  IF to_regrole('gristmill_service') IS NOT NULL THEN
    GRANT EXECUTE ON FUNCTION runtime.gate_told(text, text) TO gristmill_service;
  END IF;
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    GRANT EXECUTE ON FUNCTION runtime.gate_told(text, text) TO gristmill_worker;
    GRANT SELECT ON runtime.gates TO gristmill_worker;
  END IF;
  IF to_regrole('gristmill_dispatcher') IS NOT NULL THEN
    GRANT EXECUTE ON FUNCTION runtime.gate_told(text, text) TO gristmill_dispatcher;
    GRANT SELECT, INSERT, UPDATE, DELETE ON runtime.gates TO gristmill_dispatcher;
    GRANT SELECT ON runtime.provider_pauses TO gristmill_dispatcher;
  END IF;
END $$;
