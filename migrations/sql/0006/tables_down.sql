DO $$
DECLARE
  v_twice text;
BEGIN
  SELECT assessment_id INTO v_twice FROM assessments.assessment_states GROUP BY assessment_id HAVING count(*) > 1 LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'assessment % belongs to several owners: revision 0005 keeps one of each name, delete the others first',
      quote_literal(v_twice) USING ERRCODE = 'unique_violation';
  END IF;
END $$;

ALTER TABLE assessments.assessment_metrics
  DROP CONSTRAINT ck_assessment_metrics_metric_type,
  DROP CONSTRAINT ck_assessment_metrics_metric_value,
  DROP CONSTRAINT ck_assessment_metrics_timestamp,
  DROP COLUMN owner_id;

DELETE FROM assessments.assessment_state_cache;
ALTER TABLE assessments.assessment_state_cache
  DROP CONSTRAINT pk_assessment_state_cache,
  DROP COLUMN job_id,
  DROP COLUMN owner_id,
  DROP COLUMN version,
  DROP COLUMN row_mark,
  ADD CONSTRAINT pk_assessment_state_cache PRIMARY KEY (assessment_id);

ALTER TABLE assessments.retired_assessments DROP COLUMN owner_id;

DROP FUNCTION assessments.acting_owner();
ALTER TABLE assessments.assessment_states
  DROP CONSTRAINT idx_assessment_states_assessment_id,
  ADD CONSTRAINT idx_assessment_states_assessment_id UNIQUE (assessment_id);
