-- What the metrics need beside the counts: how often each action was taken, and what processes measure. Constraints as in
-- models/runtime/measurements.py.

CREATE TABLE runtime.action_counts (
  stage varchar(100) NOT NULL,
  action varchar(20) NOT NULL,
  jobs bigint NOT NULL CONSTRAINT ck_action_counts_jobs CHECK (jobs >= 0),
  CONSTRAINT pk_action_counts PRIMARY KEY (stage, action)
) WITH (fillfactor = 50);

CREATE TABLE runtime.measurements (
  name varchar(60) NOT NULL CONSTRAINT ck_measurements_name CHECK (name ~ '^[a-z][a-z_]*$'),
  labels text NOT NULL CONSTRAINT ck_measurements_labels CHECK (octet_length(labels) <= 500),
  number bigint NOT NULL CONSTRAINT ck_measurements_number CHECK (number >= 0),
  total double precision NOT NULL CONSTRAINT ck_measurements_total CHECK (total >= 0 AND total < 'Infinity'),
  buckets bigint[] NOT NULL DEFAULT '{}' CONSTRAINT ck_measurements_buckets CHECK (cardinality(buckets) <= 40),
  updated_at timestamptz NOT NULL DEFAULT now()
    CONSTRAINT ck_measurements_times CHECK (updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-31 00:00:00+00'),
  CONSTRAINT pk_measurements PRIMARY KEY (name, labels)
) WITH (fillfactor = 50);

CREATE FUNCTION runtime.forget_actions() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- A stage that is no more has no counts.
BEGIN
  IF TG_RELID <> 'runtime.stages'::regclass THEN
    RAISE EXCEPTION '% is for runtime.stages, not for %', TG_NAME, TG_RELID::regclass
      USING ERRCODE = 'insufficient_privilege';
  END IF;
  DELETE FROM runtime.action_counts WHERE stage IN (SELECT name FROM old_rows);
  RETURN NULL;
END $$;
CREATE TRIGGER forget_actions AFTER DELETE ON runtime.stages REFERENCING OLD TABLE AS old_rows
  FOR EACH STATEMENT EXECUTE FUNCTION runtime.forget_actions();
REVOKE EXECUTE ON FUNCTION runtime.forget_actions FROM PUBLIC;

REVOKE ALL ON runtime.action_counts, runtime.measurements FROM PUBLIC;
DO $$
DECLARE
  v_role text;
BEGIN
  FOREACH v_role IN ARRAY ARRAY['gristmill_worker', 'gristmill_dispatcher'] LOOP
    CONTINUE WHEN to_regrole(v_role) IS NULL;
    EXECUTE format('GRANT SELECT ON runtime.action_counts, runtime.measurements TO %I', v_role);
  END LOOP;
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    GRANT INSERT, UPDATE ON runtime.measurements TO gristmill_worker;
  END IF;
  IF to_regrole('gristmill_dispatcher') IS NOT NULL THEN
    GRANT INSERT, UPDATE ON runtime.action_counts TO gristmill_dispatcher;
  END IF;
END $$;
