DROP TRIGGER let_keys_go ON runtime.lifecycles;
DO $$
DECLARE
  v record;
BEGIN
  FOR v IN SELECT pg_get_functiondef(p.oid) AS guard, runtime.key_fact(l.table_name) AS fact
             FROM runtime.lifecycles AS l
             JOIN pg_namespace AS n ON n.nspname = split_part(l.table_name, '.', 1)
             JOIN pg_proc AS p ON p.pronamespace = n.oid
                              AND p.proname = 'guard_' || split_part(l.table_name, '.', 2) || '_update'
            WHERE to_regclass(l.table_name) IS NOT NULL
  LOOP
    EXECUTE replace(v.guard, v.fact, 'o.idempotency_key');
  END LOOP;
END $$;
DROP FUNCTION runtime.result, runtime.status, runtime.outcome_of, runtime.enqueue, runtime.enqueue_many, runtime.refuse_violation,
  runtime.plain_jobs_condition, runtime.row_expression, runtime.put_jobs, runtime.job_problem, runtime.as_span, runtime.fields_problem, runtime.value_problem,
  runtime.quoted, runtime.refuse, runtime.sql_door_version, runtime.repeat_jobs, runtime.rerun_job,
  runtime.first_job_statement, runtime.release_keys, runtime.let_keys_go, runtime.key_fact, runtime.status_column,
  runtime.failed_states;
ALTER TABLE runtime.stages DROP COLUMN sql_door;
