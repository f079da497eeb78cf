REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA assessments FROM PUBLIC;

DO $$ BEGIN
  IF to_regrole('gristmill_service') IS NOT NULL THEN
    GRANT SELECT ON ALL TABLES IN SCHEMA assessments TO gristmill_service;
    GRANT INSERT ON assessments.assessment_states, assessments.assessment_metrics TO gristmill_service;
    GRANT EXECUTE ON FUNCTION assessments.create_assessment, assessments.update_assessment_state,
      assessments.put_cached_state, assessments.get_cached_state TO gristmill_service;
  END IF;
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA assessments TO gristmill_worker;
    GRANT EXECUTE ON FUNCTION assessments.create_assessment, assessments.update_assessment_state,
      assessments.cleanup_old_assessments, assessments.put_cached_state, assessments.get_cached_state
      TO gristmill_worker;
  END IF;
END $$;
