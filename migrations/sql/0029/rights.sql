REVOKE EXECUTE ON FUNCTION runtime.failed_states, runtime.status_column, runtime.key_fact, runtime.let_keys_go,
  runtime.release_keys, runtime.first_job_statement, runtime.rerun_job, runtime.repeat_jobs, runtime.sql_door_version,
  runtime.refuse, runtime.quoted, runtime.value_problem, runtime.fields_problem, runtime.job_problem, runtime.as_span,
  runtime.put_jobs, runtime.plain_jobs_condition, runtime.row_expression, runtime.refuse_violation, runtime.enqueue_many, runtime.enqueue, runtime.status,
  runtime.result, runtime.outcome_of FROM PUBLIC;
DO $$
DECLARE
  v_role text;
BEGIN
  FOREACH v_role IN ARRAY ARRAY['gristmill_service', 'gristmill_worker', 'gristmill_dispatcher'] LOOP
    CONTINUE WHEN to_regrole(v_role) IS NULL;
    EXECUTE format('GRANT EXECUTE ON FUNCTION runtime.failed_states, runtime.status_column, runtime.release_keys, '
      'runtime.first_job_statement, runtime.rerun_job, runtime.repeat_jobs TO %I', v_role);
    CONTINUE WHEN v_role = 'gristmill_dispatcher';
    EXECUTE format('GRANT EXECUTE ON FUNCTION runtime.sql_door_version, runtime.refuse, runtime.quoted, '
      'runtime.value_problem, runtime.fields_problem, runtime.job_problem, runtime.as_span, runtime.put_jobs, runtime.plain_jobs_condition, runtime.row_expression, '
      'runtime.refuse_violation, runtime.enqueue_many, runtime.enqueue, runtime.status, runtime.result, runtime.outcome_of TO %I', v_role);
  END LOOP;
END $$;
