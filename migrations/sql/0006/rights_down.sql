DROP POLICY assessment_states_own ON assessments.assessment_states;
DROP POLICY retired_assessments_own ON assessments.retired_assessments;
DROP POLICY assessment_metrics_own ON assessments.assessment_metrics;
DROP POLICY assessment_state_cache_own ON assessments.assessment_state_cache;
DROP POLICY IF EXISTS assessment_states_create ON assessments.assessment_states;
DROP POLICY IF EXISTS assessment_metrics_measure ON assessments.assessment_metrics;
DROP POLICY IF EXISTS assessment_states_workers ON assessments.assessment_states;
DROP POLICY IF EXISTS retired_assessments_workers ON assessments.retired_assessments;
DROP POLICY IF EXISTS assessment_state_cache_workers ON assessments.assessment_state_cache;
DROP POLICY IF EXISTS assessment_metrics_workers ON assessments.assessment_metrics;

ALTER TABLE assessments.assessment_states DISABLE ROW LEVEL SECURITY;
ALTER TABLE assessments.retired_assessments DISABLE ROW LEVEL SECURITY;
ALTER TABLE assessments.assessment_state_cache DISABLE ROW LEVEL SECURITY;
ALTER TABLE assessments.assessment_metrics DISABLE ROW LEVEL SECURITY;

DO $$ BEGIN
  IF to_regrole('gristmill_service') IS NOT NULL THEN
    REVOKE INSERT ON assessments.assessment_metrics FROM gristmill_service;
  END IF;
END $$;
