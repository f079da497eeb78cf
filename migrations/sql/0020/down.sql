-- What 0020 made. The schema stays if another revision has something in it.

DROP VIEW llm.budget_differences, llm.limits_in_use;
DROP TABLE llm.calls, llm.askers, llm.budget_warnings, llm.budget_totals, llm.cooldowns, llm.window_counts;
DROP TRIGGER recount_insert ON llm.limits;
DROP TRIGGER recount_update ON llm.limits;
DROP TRIGGER recount_insert ON llm.budgets;
DROP TRIGGER recount_update ON llm.budgets;
DROP TRIGGER keep_out_insert ON llm.limits;
DROP TRIGGER keep_out_update ON llm.limits;
DROP TRIGGER keep_out_insert ON llm.budgets;
DROP TRIGGER keep_out_update ON llm.budgets;
DROP FUNCTION llm.admit, llm.settle_calls, llm.orphan_calls, llm.tidy, llm.capacity, llm.learn_limit, llm.cool_down,
  llm.ensure_call_partitions, llm.drop_call_partitions, llm.warn_of_budgets, llm.recount, llm.keep_out,
  llm.recount_budget, llm.recount_limit, llm.sums_of_budget, llm.budget_told, llm.limit_told, llm.free_in,
  llm.window_end, llm.window_start, llm.amount, llm.counted, llm.bucket, llm.subject, llm.budgets_of, llm.limits_of,
  llm.clock;
DROP TABLE llm.limits, llm.budgets;
DO $$ BEGIN
  DROP SCHEMA llm;
EXCEPTION WHEN dependent_objects_still_exist THEN NULL;
END $$;
