-- What a tenant may not say of itself or of others, and what a job keeps of what was asked.

-- An id that somebody chooses tells by its refusal whether another has it.
DO $$ BEGIN
  IF to_regrole('gristmill_service') IS NOT NULL THEN
    REVOKE INSERT (id) ON scoring.profiles FROM gristmill_service;
  END IF;
END $$;

-- Who made and who reviewed a record: the acting user, where a service writes it.
CREATE FUNCTION operations.my_email() RETURNS text LANGUAGE sql STABLE SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$ SELECT email FROM operations.profiles WHERE id = operations.my_id() $$;
REVOKE EXECUTE ON FUNCTION operations.my_email() FROM PUBLIC;

ALTER TABLE operations.data_records
  ALTER COLUMN "createdById" SET DEFAULT runtime.actor_id()::text,
  ALTER COLUMN "createdByEmail" SET DEFAULT operations.my_email();
ALTER TABLE operations.bonus_windows ALTER COLUMN "createdBy" SET DEFAULT runtime.actor_id();

CREATE FUNCTION operations.sign_review() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT runtime.is_trusted() THEN
    NEW."reviewedBy" := coalesce(operations.my_email(), operations.my_id()::text);
  END IF;
  RETURN NEW;
END $$;
REVOKE EXECUTE ON FUNCTION operations.sign_review() FROM PUBLIC;
CREATE TRIGGER sign_review BEFORE UPDATE OF "hasBeenReviewed", "isCategoryCorrect", "reviewedBy" ON operations.data_records
  FOR EACH ROW WHEN (NEW."hasBeenReviewed" AND (NEW."hasBeenReviewed", NEW."isCategoryCorrect", NEW."reviewedBy")
    IS DISTINCT FROM (OLD."hasBeenReviewed", OLD."isCategoryCorrect", OLD."reviewedBy"))
  EXECUTE FUNCTION operations.sign_review();

DO $$
DECLARE
  v_role text;
BEGIN
  FOREACH v_role IN ARRAY ARRAY['gristmill_service', 'gristmill_worker', 'gristmill_dispatcher'] LOOP
    CONTINUE WHEN to_regrole(v_role) IS NULL;
    EXECUTE format('GRANT EXECUTE ON FUNCTION operations.my_email() TO %I', v_role);
  END LOOP;
  IF to_regrole('gristmill_service') IS NOT NULL THEN
    REVOKE INSERT ("createdById", "createdByName", "createdByEmail") ON operations.data_records FROM gristmill_service;
    REVOKE INSERT ("createdBy") ON operations.bonus_windows FROM gristmill_service;
  END IF;
END $$;

-- A key belongs to the project's owner: whoever may only read the project gives none (docs/decisions/0008).
ALTER POLICY analytics_jobs_start ON operations.analytics_jobs WITH CHECK (
  (SELECT operations.has_role('USER')) AND (idempotency_key IS NULL OR operations.may_change("projectId")));

-- What revision 0011 added to the jobs. The file of an ingestion may go, and none comes in its place.
CREATE TRIGGER gristmill_keep_options AFTER UPDATE OF options, "uploadId" ON operations.ingest_jobs
  FOR EACH ROW WHEN (OLD.options IS DISTINCT FROM NEW.options
                     OR (NEW."uploadId" IS NOT NULL AND OLD."uploadId" IS DISTINCT FROM NEW."uploadId"))
  EXECUTE FUNCTION operations.keep_ingest_jobs('what was asked cannot change');
CREATE TRIGGER gristmill_keep_warnings AFTER UPDATE OF warnings ON operations.analytics_jobs
  FOR EACH ROW WHEN (OLD.completed_at IS NOT NULL AND OLD.warnings IS DISTINCT FROM NEW.warnings)
  EXECUTE FUNCTION operations.keep_analytics_jobs('the results of a job that ended cannot change');

-- A request may gain members and keeps those it has as they are: order, repetition and what they hold.
CREATE FUNCTION runtime.keeps(p_first jsonb, p_later jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
  SET search_path = pg_catalog, pg_temp AS $$
  -- Whether each member of the first document is in the later one, unchanged.
  SELECT CASE WHEN jsonb_typeof(p_first) = 'object' AND jsonb_typeof(p_later) = 'object'
              THEN NOT EXISTS (SELECT FROM jsonb_each(p_first) AS f WHERE p_later -> f.key IS DISTINCT FROM f.value)
              ELSE p_first IS NOT DISTINCT FROM p_later END
$$;
REVOKE EXECUTE ON FUNCTION runtime.keeps(jsonb, jsonb) FROM PUBLIC;
DO $$
DECLARE
  v_role text;
BEGIN
  FOREACH v_role IN ARRAY ARRAY['gristmill_service', 'gristmill_worker', 'gristmill_dispatcher'] LOOP
    CONTINUE WHEN to_regrole(v_role) IS NULL;
    EXECUTE format('GRANT EXECUTE ON FUNCTION runtime.keeps(jsonb, jsonb) TO %I', v_role);
  END LOOP;
END $$;
CREATE OR REPLACE FUNCTION assessments.refuse_loss() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  v_rule text := CASE
    WHEN NEW.assessment_id <> OLD.assessment_id THEN 'its assessment_id cannot change'
    WHEN NOT runtime.keeps(OLD.request_data, NEW.request_data) THEN 'its request_data may gain keys, not lose or change them'
    WHEN OLD.result_data IS NOT NULL AND coalesce(NEW.result_data, 'null') = 'null' THEN 'its result cannot be erased'
    WHEN OLD.error_message IS NOT NULL AND NEW.error_message IS NULL AND NEW.version <> OLD.version
      THEN 'its error cannot be erased but by completing it'
    ELSE 'its data change only with its version, got ' || NEW.version || ' again' END;
BEGIN
  RAISE EXCEPTION 'assessment % (%): %', quote_literal(OLD.assessment_id), OLD.state, v_rule
    USING ERRCODE = 'check_violation';
END $$;

DROP TRIGGER keep_request ON assessments.assessment_states;
CREATE TRIGGER keep_request
AFTER UPDATE OF assessment_id, request_data ON assessments.assessment_states
FOR EACH ROW WHEN (
  NEW.assessment_id <> OLD.assessment_id
  OR NOT runtime.keeps(OLD.request_data, NEW.request_data)
  OR (NEW.version = OLD.version AND NEW.request_data <> OLD.request_data))
EXECUTE FUNCTION assessments.refuse_loss();

-- What an analysis locks while it looks whose turn it is. Without a foreign key: whoever looks holds a job's row, and would
-- wait here for who deletes the project and waits for that row.
CREATE TABLE operations.analytics_turns (
  "projectId" uuid NOT NULL CONSTRAINT pk_analytics_turns PRIMARY KEY,
  "lookedAt" timestamptz NOT NULL DEFAULT now()
);
REVOKE ALL ON operations.analytics_turns FROM PUBLIC;
ALTER TABLE operations.analytics_turns ENABLE ROW LEVEL SECURITY;
DO $$ BEGIN
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    GRANT SELECT, INSERT, UPDATE, DELETE ON operations.analytics_turns TO gristmill_worker;
    CREATE POLICY analytics_turns_workers ON operations.analytics_turns FOR ALL TO gristmill_worker USING (true);
  END IF;
END $$;
