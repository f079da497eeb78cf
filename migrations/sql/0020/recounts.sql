-- A limit or a budget that is new, or is now about other calls, starts from the ledger. Nobody admits or settles
-- meanwhile: both lock these tables in ROW SHARE mode first.

CREATE FUNCTION llm.recount_limit(p_limit llm.limits) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Count for a limit the calls of its last window, or those that are under way.
BEGIN
  DELETE FROM llm.window_counts WHERE limit_id = p_limit.id;
  INSERT INTO llm.window_counts (limit_id, subject, bucket, amount)
  SELECT p_limit.id, llm.subject(p_limit.per_owner, c.owner_id), llm.bucket(c.created_at, p_limit.window_seconds),
         sum(CASE WHEN p_limit.measure = 'requested_tokens' THEN
                    llm.amount(p_limit.measure, c.estimated_input::bigint, c.max_output::bigint)
                  ELSE llm.amount(p_limit.measure,
                         llm.counted(c.state, c.input_tokens, c.estimated_input)::bigint,
                         llm.counted(c.state, c.output_tokens, c.max_output)::bigint) END)
    FROM llm.calls AS c
   WHERE c.lane = 'normal' AND c.state <> 'cached'
     AND (p_limit.provider IS NULL OR p_limit.provider = c.provider)
     AND (p_limit.model IS NULL OR p_limit.model = c.model)
     AND (p_limit.stage IS NULL OR p_limit.stage = c.stage)
     AND (p_limit.owner_id IS NULL OR p_limit.owner_id = c.owner_id)
     AND CASE WHEN p_limit.measure = 'concurrency' THEN c.state = 'reserved'
              ELSE c.created_at > llm.clock() - make_interval(secs => p_limit.window_seconds * 66 / 64.0) END
   GROUP BY 2, 3;
END $$;

CREATE FUNCTION llm.sums_of_budget(p_budget llm.budgets, p_window_start timestamptz)
RETURNS TABLE (reserved_usd numeric, spent_usd numeric, reserved_tokens bigint, spent_tokens bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
-- What the ledger says of one window of a budget: what its total must be.
  SELECT coalesce(sum(llm.counted(c.state, c.usd, c.estimated_usd)) FILTER (WHERE c.state = 'reserved'), 0),
         coalesce(sum(llm.counted(c.state, c.usd, c.estimated_usd)) FILTER (WHERE c.state <> 'reserved'), 0),
         coalesce(sum(llm.counted(c.state, c.input_tokens, c.estimated_input)
                      + llm.counted(c.state, c.output_tokens, c.max_output)) FILTER (WHERE c.state = 'reserved'), 0)::bigint,
         coalesce(sum(llm.counted(c.state, c.input_tokens, c.estimated_input)
                      + llm.counted(c.state, c.output_tokens, c.max_output)) FILTER (WHERE c.state <> 'reserved'), 0)::bigint
    FROM llm.calls AS c
   WHERE c.created_at >= p_window_start - interval '1 day'
     AND c.created_at < CASE p_budget.window WHEN 'total' THEN 'infinity' ELSE p_window_start + interval '33 days' END
     AND llm.window_start(p_budget.window, p_budget.zone, c.created_at) = p_window_start
     AND CASE p_budget.scope WHEN 'all' THEN true
                             WHEN 'stage' THEN c.stage = p_budget.scope_value
                             WHEN 'tenant' THEN c.owner_id::text = p_budget.scope_value
                             WHEN 'project' THEN c.project_id::text = p_budget.scope_value
                             WHEN 'profile' THEN c.profile_id::text = p_budget.scope_value END
$$;

CREATE FUNCTION llm.recount_budget(p_budget llm.budgets) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Make the total of a budget's present window the sum of the ledger; of another window, or of other calls, none is kept.
BEGIN
  DELETE FROM llm.budget_totals WHERE budget_id = p_budget.id;
  INSERT INTO llm.budget_totals (budget_id, window_start, reserved_usd, spent_usd, reserved_tokens, spent_tokens)
  SELECT p_budget.id, w.start, s.reserved_usd, s.spent_usd, s.reserved_tokens, s.spent_tokens
    FROM llm.window_start(p_budget.window, p_budget.zone, llm.clock()) AS w (start)
   CROSS JOIN LATERAL llm.sums_of_budget(p_budget, w.start) AS s;
END $$;

CREATE FUNCTION llm.keep_out() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Wait for what is being admitted or settled, and let nothing more in until this transaction ends.
BEGIN
  IF TG_RELID NOT IN ('llm.limits'::regclass, 'llm.budgets'::regclass) THEN
    RAISE EXCEPTION '% keeps calls out while limits or budgets change, not %', TG_NAME, TG_RELID::regclass
      USING ERRCODE = 'insufficient_privilege';
  END IF;
  EXECUTE format('LOCK TABLE %s IN EXCLUSIVE MODE', TG_RELID::regclass);
  RETURN NULL;
END $$;

CREATE FUNCTION llm.recount() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_RELID = 'llm.limits'::regclass THEN
    PERFORM llm.recount_limit(NEW);
  ELSIF TG_RELID = 'llm.budgets'::regclass THEN
    PERFORM llm.recount_budget(NEW);
  ELSE
    RAISE EXCEPTION '% counts for limits and budgets, not for %', TG_NAME, TG_RELID::regclass
      USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NULL;
END $$;

CREATE TRIGGER keep_out_insert BEFORE INSERT ON llm.limits FOR EACH STATEMENT EXECUTE FUNCTION llm.keep_out();
CREATE TRIGGER keep_out_update
  BEFORE UPDATE OF provider, model, stage, owner_id, per_owner, measure, window_seconds ON llm.limits
  FOR EACH STATEMENT EXECUTE FUNCTION llm.keep_out();
CREATE TRIGGER recount_insert AFTER INSERT ON llm.limits FOR EACH ROW EXECUTE FUNCTION llm.recount();
CREATE TRIGGER recount_update
  AFTER UPDATE OF provider, model, stage, owner_id, per_owner, measure, window_seconds ON llm.limits FOR EACH ROW
  WHEN ((OLD.provider, OLD.model, OLD.stage, OLD.owner_id, OLD.per_owner, OLD.measure, OLD.window_seconds)
        IS DISTINCT FROM
        (NEW.provider, NEW.model, NEW.stage, NEW.owner_id, NEW.per_owner, NEW.measure, NEW.window_seconds))
  EXECUTE FUNCTION llm.recount();

CREATE TRIGGER keep_out_insert BEFORE INSERT ON llm.budgets FOR EACH STATEMENT EXECUTE FUNCTION llm.keep_out();
CREATE TRIGGER keep_out_update BEFORE UPDATE OF scope, scope_value, "window", zone ON llm.budgets
  FOR EACH STATEMENT EXECUTE FUNCTION llm.keep_out();
CREATE TRIGGER recount_insert AFTER INSERT ON llm.budgets FOR EACH ROW EXECUTE FUNCTION llm.recount();
CREATE TRIGGER recount_update AFTER UPDATE OF scope, scope_value, "window", zone ON llm.budgets FOR EACH ROW
  WHEN ((OLD.scope, OLD.scope_value, OLD."window", OLD.zone)
        IS DISTINCT FROM (NEW.scope, NEW.scope_value, NEW."window", NEW.zone))
  EXECUTE FUNCTION llm.recount();
