-- Workers read everything and write by the functions alone. Operators write limits, cooldowns and budgets; dispatchers
-- read what gates need and keep the months. Services have nothing here.

REVOKE ALL ON ALL TABLES IN SCHEMA llm FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION llm.clock, llm.limits_of, llm.budgets_of, llm.subject, llm.bucket, llm.counted, llm.amount,
  llm.window_start, llm.window_end, llm.free_in, llm.limit_told, llm.budget_told, llm.recount_limit, llm.sums_of_budget,
  llm.recount_budget, llm.keep_out, llm.recount, llm.warn_of_budgets, llm.admit, llm.settle_calls, llm.orphan_calls,
  llm.tidy, llm.capacity, llm.learn_limit, llm.cool_down, llm.ensure_call_partitions, llm.drop_call_partitions FROM PUBLIC;
DO $$
DECLARE
  v_role text;
BEGIN
  FOREACH v_role IN ARRAY ARRAY['gristmill_worker', 'gristmill_dispatcher'] LOOP
    CONTINUE WHEN to_regrole(v_role) IS NULL;
    EXECUTE format('GRANT USAGE ON SCHEMA llm TO %I', v_role);
    EXECUTE format('GRANT SELECT ON llm.limits, llm.window_counts, llm.limits_in_use, llm.cooldowns, llm.budgets, '
                   'llm.budget_totals TO %I',
                   v_role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION llm.capacity, llm.limits_of, llm.budgets_of, llm.subject, llm.bucket, '
                   'llm.counted, llm.amount, llm.window_start, llm.window_end, llm.free_in, llm.limit_told, '
                   'llm.budget_told, llm.clock TO %I', v_role);
  END LOOP;
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    GRANT SELECT, UPDATE (batch_id) ON llm.calls TO gristmill_worker;  -- calls of a batch are reserved before it is sent
    GRANT SELECT ON llm.budget_warnings, llm.budget_differences TO gristmill_worker;
    GRANT EXECUTE ON FUNCTION llm.admit, llm.settle_calls, llm.orphan_calls, llm.tidy, llm.learn_limit, llm.cool_down,
      llm.sums_of_budget TO gristmill_worker;
  END IF;
  IF to_regrole('gristmill_operator') IS NOT NULL THEN
    GRANT INSERT, UPDATE, DELETE ON llm.limits, llm.cooldowns, llm.budgets TO gristmill_operator;
  END IF;
  FOREACH v_role IN ARRAY ARRAY['gristmill_dispatcher', 'gristmill_operator'] LOOP
    IF to_regrole(v_role) IS NOT NULL THEN
      EXECUTE format('GRANT EXECUTE ON FUNCTION llm.ensure_call_partitions, llm.drop_call_partitions TO %I', v_role);
    END IF;
  END LOOP;
END $$;
