-- The model that a job asks, as the column that its gate goes by: always what the trigger computes. Existing rows get the
-- default without being rewritten.

ALTER TABLE operations.analytics_jobs ADD COLUMN IF NOT EXISTS asked_model text NOT NULL DEFAULT 'gpt-3.5-turbo';
ALTER TABLE assessments.assessment_states ADD COLUMN IF NOT EXISTS asked_model text NOT NULL DEFAULT 'gpt-3.5-turbo';

CREATE OR REPLACE FUNCTION operations.note_asked_model() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  NEW.asked_model := coalesce(nullif(NEW."modelName", ''), 'gpt-3.5-turbo');
  RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER note_asked_model BEFORE INSERT OR UPDATE OF asked_model ON operations.analytics_jobs
  FOR EACH ROW EXECUTE FUNCTION operations.note_asked_model();

CREATE OR REPLACE FUNCTION assessments.note_asked_model() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- The model that the request names, of a composite that of its first part. A service may have written any text, and a
-- key of an index has a size limit.
BEGIN
  NEW.asked_model := left(coalesce(nullif(NEW.request_data #>> '{options,model}', ''),
                                   nullif(NEW.request_data #>> '{options,parts,0,options,model}', ''),
                                   'gpt-3.5-turbo'), 255);
  RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER note_asked_model
  BEFORE INSERT OR UPDATE OF request_data, asked_model ON assessments.assessment_states FOR EACH ROW EXECUTE FUNCTION assessments.note_asked_model();
REVOKE EXECUTE ON FUNCTION operations.note_asked_model(), assessments.note_asked_model() FROM PUBLIC;

-- The jobs that a gate may keep back: those that have not begun.
UPDATE operations.analytics_jobs SET asked_model = "modelName"
 WHERE status = 'PENDING' AND nullif("modelName", '') <> asked_model;
UPDATE assessments.assessment_states SET asked_model = asked_model
 WHERE state = 'pending' AND (request_data #> '{options,model}' IS NOT NULL OR request_data #> '{options,parts}' IS NOT NULL);
