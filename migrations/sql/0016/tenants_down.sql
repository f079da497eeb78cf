DROP TABLE operations.analytics_turns;
DROP TRIGGER keep_request ON assessments.assessment_states;
CREATE TRIGGER keep_request
AFTER UPDATE OF assessment_id, request_data ON assessments.assessment_states
FOR EACH ROW WHEN (
  NEW.assessment_id <> OLD.assessment_id
  OR NOT NEW.request_data @> OLD.request_data
  OR (NEW.version = OLD.version AND NEW.request_data <> OLD.request_data))
EXECUTE FUNCTION assessments.refuse_loss();
DROP FUNCTION runtime.keeps(jsonb, jsonb);
DROP TRIGGER gristmill_keep_warnings ON operations.analytics_jobs;
DROP TRIGGER gristmill_keep_options ON operations.ingest_jobs;
ALTER POLICY analytics_jobs_start ON operations.analytics_jobs WITH CHECK ((SELECT operations.has_role('USER')));
DROP FUNCTION operations.sign_review() CASCADE;
ALTER TABLE operations.bonus_windows ALTER COLUMN "createdBy" DROP DEFAULT;
ALTER TABLE operations.data_records ALTER COLUMN "createdById" DROP DEFAULT, ALTER COLUMN "createdByEmail" DROP DEFAULT;
DROP FUNCTION operations.my_email();
DO $$ BEGIN
  IF to_regrole('gristmill_service') IS NOT NULL THEN
    GRANT INSERT (id) ON scoring.profiles TO gristmill_service;
    GRANT INSERT ("createdById", "createdByName", "createdByEmail") ON operations.data_records TO gristmill_service;
    GRANT INSERT ("createdBy") ON operations.bonus_windows TO gristmill_service;
  END IF;
END $$;
