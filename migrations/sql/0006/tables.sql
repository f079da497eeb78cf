-- Whose an assessment is, in every table that names one.

ALTER TABLE assessments.assessment_states
  DROP CONSTRAINT idx_assessment_states_assessment_id,
  -- One index for both questions: of a tenant (name and owner) and of an operator (name alone).
  ADD CONSTRAINT idx_assessment_states_assessment_id UNIQUE NULLS NOT DISTINCT (assessment_id, owner_id);

ALTER TABLE assessments.retired_assessments ADD COLUMN owner_id uuid;

-- What is remembered belongs to one row as it was: its mark changes with every update of that row.
DELETE FROM assessments.assessment_state_cache;
ALTER TABLE assessments.assessment_state_cache
  DROP CONSTRAINT pk_assessment_state_cache,
  ADD COLUMN job_id uuid NOT NULL,
  ADD COLUMN owner_id uuid,
  ADD COLUMN version integer NOT NULL,
  ADD COLUMN row_mark text NOT NULL,
  ADD CONSTRAINT pk_assessment_state_cache PRIMARY KEY (job_id);

-- What ended without a start was measured as 2147483647 ms.
DELETE FROM assessments.assessment_metrics WHERE metric_type = 'processing_time' AND metric_value = 2147483647;
ALTER TABLE assessments.assessment_metrics
  ADD COLUMN owner_id uuid,
  -- NOT VALID: they hold for what is written from now on, and what was measured before stays.
  ADD CONSTRAINT ck_assessment_metrics_metric_type CHECK (metric_type ~ '\S') NOT VALID,
  ADD CONSTRAINT ck_assessment_metrics_metric_value CHECK (metric_value >= 0) NOT VALID,
  ADD CONSTRAINT ck_assessment_metrics_timestamp CHECK (
    timestamp BETWEEN '1970-01-01 00:00:00+00' AND '9999-12-31 00:00:00+00') NOT VALID;
ALTER TABLE assessments.assessment_metrics ALTER COLUMN owner_id SET DEFAULT runtime.actor_id();
