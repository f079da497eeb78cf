-- A service sees and makes what belongs to the user for whom it acts. Rows without an owner belong to operators.

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA assessments FROM PUBLIC;

ALTER TABLE assessments.assessment_states ENABLE ROW LEVEL SECURITY;
ALTER TABLE assessments.retired_assessments ENABLE ROW LEVEL SECURITY;
ALTER TABLE assessments.assessment_state_cache ENABLE ROW LEVEL SECURITY;
ALTER TABLE assessments.assessment_metrics ENABLE ROW LEVEL SECURITY;

CREATE POLICY assessment_states_own ON assessments.assessment_states FOR SELECT
  USING (owner_id = (SELECT runtime.actor_id()));
CREATE POLICY retired_assessments_own ON assessments.retired_assessments FOR SELECT
  USING (owner_id = (SELECT runtime.actor_id()));
CREATE POLICY assessment_metrics_own ON assessments.assessment_metrics FOR SELECT
  USING (owner_id = (SELECT runtime.actor_id()));
-- What the row no longer says is not shown here either.
CREATE POLICY assessment_state_cache_own ON assessments.assessment_state_cache FOR SELECT
  USING (owner_id = (SELECT runtime.actor_id()) AND EXISTS (
    SELECT FROM assessments.assessment_states AS s
     WHERE s.id = job_id AND row_mark = s.xmin::text || s.ctid::text));

DO $$
DECLARE
  v_table text;
BEGIN
  IF to_regrole('gristmill_service') IS NOT NULL THEN
    -- They raise for a service that acts for nobody: one clear line instead of a row without an owner.
    CREATE POLICY assessment_states_create ON assessments.assessment_states FOR INSERT TO gristmill_service
      WITH CHECK (owner_id = (SELECT assessments.acting_owner()));
    CREATE POLICY assessment_metrics_measure ON assessments.assessment_metrics FOR INSERT TO gristmill_service
      WITH CHECK (owner_id = (SELECT assessments.acting_owner()));
    REVOKE INSERT, UPDATE, DELETE ON assessments.retired_assessments, assessments.assessment_state_cache,
      assessments.assessment_metrics FROM gristmill_service;
    GRANT INSERT (assessment_id, metric_type, metric_value) ON assessments.assessment_metrics TO gristmill_service;
    GRANT EXECUTE ON FUNCTION assessments.acting_owner(), assessments.job_of(varchar),
      assessments.put_cached_state(varchar, jsonb, integer, integer) TO gristmill_service;
  END IF;
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    -- BYPASSRLS is not inherited by members of the role; a policy is.
    FOREACH v_table IN ARRAY ARRAY['assessment_states', 'retired_assessments', 'assessment_state_cache',
                                   'assessment_metrics'] LOOP
      EXECUTE format('CREATE POLICY %I ON assessments.%I FOR ALL TO gristmill_worker USING (true)',
                     v_table || '_workers', v_table);
    END LOOP;
    GRANT EXECUTE ON FUNCTION assessments.acting_owner(), assessments.job_of(varchar),
      assessments.put_cached_state(varchar, jsonb, integer, integer) TO gristmill_worker;
  END IF;
END $$;
