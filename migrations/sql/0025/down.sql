DROP TRIGGER note_asked_model ON operations.analytics_jobs;
DROP TRIGGER note_asked_model ON assessments.assessment_states;
DROP FUNCTION operations.note_asked_model(), assessments.note_asked_model();
ALTER TABLE operations.analytics_jobs DROP COLUMN asked_model;
ALTER TABLE assessments.assessment_states DROP COLUMN asked_model;
DROP FUNCTION llm.chosen_provider();
DO $$ BEGIN
  IF to_regrole('gristmill_dispatcher') IS NOT NULL THEN
    REVOKE SELECT (base_url, updated_at) ON llm.providers FROM gristmill_dispatcher;
  END IF;
END $$;
