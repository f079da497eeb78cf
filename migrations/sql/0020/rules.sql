-- The rules that everything else asks: the clock, which limits and budgets a call is under, what it counts for, when a
-- window begins. Small functions, which Postgres writes into the statements that call them.

CREATE FUNCTION llm.clock() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
-- The one clock of admission. Read after the locks, so that it never goes back within a limit.
  SELECT clock_timestamp()
$$;

CREATE FUNCTION llm.limits_of(p_provider text, p_model text, p_stage text, p_owner uuid) RETURNS SETOF llm.limits
LANGUAGE sql STABLE AS $$
-- The limits that a call is under: each that names nothing else.
  SELECT l.* FROM llm.limits AS l
   WHERE l.owner_id IS NULL AND (l.provider IS NULL OR l.provider = p_provider)
     AND (l.model IS NULL OR l.model = p_model) AND (l.stage IS NULL OR l.stage = p_stage)
   UNION ALL
  SELECT l.* FROM llm.limits AS l
   WHERE l.owner_id = p_owner AND (l.provider IS NULL OR l.provider = p_provider)
     AND (l.model IS NULL OR l.model = p_model) AND (l.stage IS NULL OR l.stage = p_stage)
$$;

CREATE FUNCTION llm.budgets_of(p_stage text, p_owner uuid, p_project uuid, p_profile uuid) RETURNS SETOF llm.budgets
LANGUAGE sql STABLE AS $$
-- The budgets that pay for a call.
  SELECT b.* FROM llm.budgets AS b WHERE b.scope = 'all'
   UNION ALL
  SELECT b.* FROM (VALUES ('stage', p_stage), ('tenant', p_owner::text), ('project', p_project::text),
                          ('profile', p_profile::text)) AS k (scope, value)
    JOIN llm.budgets AS b ON b.scope = k.scope AND b.scope_value = k.value
$$;

CREATE FUNCTION llm.subject(p_per_owner boolean, p_owner uuid) RETURNS text LANGUAGE sql IMMUTABLE AS $$
-- Whose share of a limit a call uses: each owner's, or everybody's.
  SELECT CASE WHEN p_per_owner THEN coalesce(p_owner::text, 'nobody') ELSE '' END
$$;

CREATE FUNCTION llm.bucket(p_at timestamptz, p_window_seconds integer) RETURNS bigint LANGUAGE sql STABLE AS $$
-- The bucket of a moment: a 64th of the window. A bucket counts until a whole window after its end: the last 64 and the
-- one under way cover every window of that length that ends now.
  SELECT CASE WHEN p_window_seconds IS NULL THEN 0
              ELSE floor(extract(epoch FROM p_at) * 64 / p_window_seconds)::bigint END
$$;

CREATE FUNCTION llm.counted(p_state text, p_actual numeric, p_estimate numeric) RETURNS numeric
LANGUAGE sql IMMUTABLE AS $$
-- What a call counts for: what it used as soon as that is known, until then its estimate; nothing if nobody paid.
  SELECT CASE WHEN p_state IN ('failed', 'cached') THEN 0 ELSE coalesce(p_actual, p_estimate, 0) END
$$;

CREATE FUNCTION llm.amount(p_measure text, p_input bigint, p_output bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
-- What a call counts for. Providers that count what is requested take a fourth of its bytes for its input; ours is an
-- upper estimate, a third of them.
  SELECT CASE p_measure WHEN 'input_tokens' THEN p_input WHEN 'output_tokens' THEN p_output
                        WHEN 'tokens' THEN p_input + p_output
                        WHEN 'requested_tokens' THEN (p_input * 3 + 3) / 4 + p_output ELSE 1 END
$$;

CREATE FUNCTION llm.window_start(p_window text, p_zone text, p_at timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
-- The window of a moment, by the wall clock of the zone. Where midnight comes twice, it is that day's second one.
  SELECT CASE p_window WHEN 'total' THEN timestamptz 'epoch' ELSE date_trunc(p_window, p_at, p_zone) END
$$;

CREATE FUNCTION llm.window_end(p_window text, p_zone text, p_at timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN p_window <> 'total' THEN
    (date_trunc(p_window, p_at AT TIME ZONE p_zone) + ('1 ' || p_window)::interval) AT TIME ZONE p_zone END
$$;

CREATE FUNCTION llm.free_in(
  p_limit uuid, p_subject text, p_window_seconds integer, p_room bigint, p_new bigint, p_now timestamptz
) RETURNS double precision LANGUAGE sql STABLE AS $$
-- In how many seconds no more than p_room is left in the window, if nothing is added to it and nothing given back;
-- p_new is what the bucket under way has beside its row. NULL for calls under way, which end when they end.
  SELECT CASE WHEN p_window_seconds IS NOT NULL THEN
    greatest(((coalesce(min(w.bucket) FILTER (WHERE w.newer + p_new <= p_room), llm.bucket(p_now, p_window_seconds))
               + 65) * p_window_seconds / 64.0 - extract(epoch FROM p_now))::float8, 0) END
    FROM (SELECT c.bucket, sum(c.amount) OVER (ORDER BY c.bucket DESC) - c.amount AS newer
            FROM llm.window_counts AS c
           WHERE c.limit_id = p_limit AND c.subject = p_subject
             AND c.bucket BETWEEN llm.bucket(p_now, p_window_seconds) - 64 AND llm.bucket(p_now, p_window_seconds) + 64
         ) AS w
$$;

CREATE FUNCTION llm.limit_told(p_limit llm.limits, p_subject text, p_used bigint, p_wait double precision)
RETURNS jsonb LANGUAGE sql STABLE AS $$
  SELECT jsonb_build_object('kind', 'limit', 'id', p_limit.id, 'subject', p_subject, 'measure', p_limit.measure,
    'at_most', p_limit.at_most, 'window_seconds', p_limit.window_seconds, 'provider', p_limit.provider,
    'model', p_limit.model, 'stage', p_limit.stage, 'owner_id', p_limit.owner_id, 'used', p_used, 'wait', p_wait)
$$;

CREATE FUNCTION llm.budget_told(p_budget llm.budgets, p_usd numeric, p_tokens numeric, p_wait double precision,
  p_until timestamptz) RETURNS jsonb LANGUAGE sql STABLE AS $$
  SELECT jsonb_build_object('kind', 'budget', 'id', p_budget.id, 'name', p_budget.name, 'then', p_budget.then,
    'usd', p_budget.usd, 'used_usd', p_usd, 'tokens', p_budget.tokens, 'used_tokens', p_tokens, 'wait', p_wait,
    'until', p_until)
$$;
