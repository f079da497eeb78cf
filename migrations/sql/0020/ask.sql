-- What there is room for, and what providers say of themselves.

CREATE FUNCTION llm.capacity(p_paths jsonb)
RETURNS TABLE (place integer, calls bigint, wait double precision, cause jsonb) LANGUAGE sql STABLE AS $$
-- For each path how many calls of its size could be admitted now (NULL: any number); where none could, in how many
-- seconds (NULL: not known) and what is in the way. A path without an owner is anybody's: limits of each owner do not
-- count. Reserves nothing, locks nothing.
  SELECT p.place::integer, t.room, t.wait, t.cause
    FROM ROWS FROM (jsonb_to_recordset(p_paths)
           AS (provider text, model text, stage text, owner_id uuid, project_id uuid, profile_id uuid, lane text,
               input integer, output integer, usd numeric)) WITH ORDINALITY
           AS p (provider, model, stage, owner_id, project_id, profile_id, lane, input, output, usd, place)
   CROSS JOIN LATERAL (SELECT n.now, floor(extract(epoch FROM n.now) / 60) AS minute FROM llm.clock() AS n (now)) AS c
    LEFT JOIN LATERAL (
      SELECT x.room, x.wait, x.cause FROM (
        SELECT greatest((l.at_most - u.used) / greatest(a.need, 1), 0) AS room,
               CASE WHEN a.need <= l.at_most AND u.used + a.need > l.at_most THEN
                 llm.free_in(l.id, s.subject, l.window_seconds, l.at_most - a.need, 0, c.now) END AS wait,
               llm.limit_told(l, s.subject, u.used, NULL)
                 || CASE WHEN a.need > l.at_most THEN jsonb_build_object('never', true, 'need', a.need) ELSE '{}' END AS cause
          FROM llm.limits_of(p.provider, p.model, p.stage, p.owner_id) AS l
         CROSS JOIN LATERAL (SELECT llm.subject(l.per_owner, p.owner_id)) AS s (subject)
         CROSS JOIN LATERAL (SELECT llm.amount(l.measure, coalesce(p.input, 1), coalesce(p.output, 1))) AS a (need)
         CROSS JOIN LATERAL (
                SELECT coalesce(sum(w.amount), 0)::bigint FROM llm.window_counts AS w
                 WHERE w.limit_id = l.id AND w.subject = s.subject
                   AND w.bucket BETWEEN llm.bucket(c.now, l.window_seconds) - 64
                                    AND llm.bucket(c.now, l.window_seconds) + 64) AS u (used)
         WHERE p.lane IS DISTINCT FROM 'batch' AND (l.until IS NULL OR l.until > c.now)
           AND NOT (l.per_owner AND p.owner_id IS NULL)
         UNION ALL
        SELECT 0, extract(epoch FROM d.until - c.now)::float8,
               jsonb_build_object('kind', 'cooldown', 'provider', d.provider, 'model', d.model, 'reason', d.reason)
          FROM llm.cooldowns AS d
         WHERE d.provider = p.provider AND d.model IN ('', p.model) AND d.until > c.now
           AND p.lane IS DISTINCT FROM 'batch'
         UNION ALL
        SELECT CASE WHEN r.room = 0 AND b.then = 'slow' THEN
                 CASE WHEN t.slow_minute = c.minute AND t.slow_share >= 0.001 THEN 0 ELSE 1 END ELSE r.room END,
               CASE WHEN b.then = 'slow' THEN 60 - (extract(epoch FROM c.now) - c.minute * 60)
                    ELSE extract(epoch FROM e.until - c.now) END::float8,
               llm.budget_told(b, g.usd, g.tokens, NULL, e.until)
          FROM llm.budgets_of(p.stage, p.owner_id, p.project_id, p.profile_id) AS b
          LEFT JOIN llm.budget_totals AS t
            ON t.budget_id = b.id AND t.window_start = llm.window_start(b.window, b.zone, c.now)
         CROSS JOIN LATERAL (SELECT coalesce(t.reserved_usd + t.spent_usd, 0),
                                    coalesce(t.reserved_tokens + t.spent_tokens, 0)) AS g (usd, tokens)
         CROSS JOIN LATERAL (
                SELECT least(CASE WHEN g.usd >= b.usd THEN 0 WHEN p.usd > 0 THEN trunc((b.usd - g.usd) / p.usd) END,
                             CASE WHEN g.tokens >= b.tokens THEN 0
                                  WHEN coalesce(p.input, 0) + coalesce(p.output, 0) > 0 THEN
                                    (b.tokens - g.tokens) / (coalesce(p.input, 0) + coalesce(p.output, 0))
                             END)::bigint) AS r (room)
         CROSS JOIN LATERAL llm.window_end(b.window, b.zone, c.now) AS e (until)
         WHERE b.then IN ('stop', 'slow') OR (b.then = 'batch' AND p.lane IS DISTINCT FROM 'batch')
      ) AS x
       WHERE x.room IS NOT NULL
       ORDER BY x.room, x.wait DESC NULLS FIRST LIMIT 1) AS t ON true
   ORDER BY p.place
$$;

CREATE FUNCTION llm.learn_limit(
  p_provider text, p_model text, p_measure text, p_at_most bigint, p_window_seconds integer, p_seconds double precision
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Keep for a while a limit that a provider says it has; true if that is news. Limits of operators stay as they are: of
-- two the stricter one holds.
DECLARE
  v_until timestamptz := clock_timestamp() + make_interval(secs => least(greatest(p_seconds, 1), 2678400));
BEGIN
  IF EXISTS (SELECT FROM llm.limits AS l
              WHERE l.set_by = 'learned' AND l.provider = p_provider AND l.model IS NOT DISTINCT FROM p_model
                AND l.stage IS NULL AND l.owner_id IS NULL AND NOT l.per_owner AND l.measure = p_measure
                AND l.window_seconds IS NOT DISTINCT FROM p_window_seconds AND l.at_most = p_at_most
                AND l.until > clock_timestamp() + (v_until - clock_timestamp()) / 2) THEN
    RETURN false;
  END IF;
  UPDATE llm.limits AS l SET at_most = p_at_most, until = greatest(l.until, v_until)
   WHERE l.set_by = 'learned' AND l.provider = p_provider AND l.model IS NOT DISTINCT FROM p_model
     AND l.stage IS NULL AND l.owner_id IS NULL AND NOT l.per_owner AND l.measure = p_measure
     AND l.window_seconds IS NOT DISTINCT FROM p_window_seconds;
  IF NOT FOUND THEN
    INSERT INTO llm.limits (provider, model, measure, at_most, window_seconds, set_by, until)
    VALUES (p_provider, p_model, p_measure, p_at_most, p_window_seconds, 'learned', v_until)
        ON CONFLICT DO NOTHING;
  END IF;
  RETURN true;
END $$;

CREATE FUNCTION llm.cool_down(p_provider text, p_model text, p_seconds double precision, p_reason text)
RETURNS timestamptz LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Let nobody call p_model of p_provider ('' for all of its models) for so long; return until when. Of two who ask for a
-- cooldown the later end counts.
  INSERT INTO llm.cooldowns AS c (provider, model, since, until, reason)
  VALUES (p_provider, p_model, clock_timestamp(),
          clock_timestamp() + make_interval(secs => least(greatest(p_seconds, 0), 2678400)), left(p_reason, 2000))
      ON CONFLICT (provider, model) DO UPDATE
         SET since = CASE WHEN c.until > excluded.since THEN c.since ELSE excluded.since END,
             until = greatest(c.until, excluded.until),
             reason = CASE WHEN excluded.until >= c.until THEN excluded.reason ELSE c.reason END
  RETURNING until
$$;

CREATE VIEW llm.limits_in_use WITH (security_invoker = true) AS
-- What is used of each limit now; of one that each owner has, a row for each owner who uses some of it.
SELECT l.id, l.provider, l.model, l.stage, l.owner_id, l.per_owner, l.measure, l.at_most, l.window_seconds, l.set_by,
       l.until, l.created_at, coalesce(w.subject, '') AS subject, coalesce(sum(w.amount), 0)::bigint AS used
  FROM llm.limits AS l
  LEFT JOIN llm.window_counts AS w
    ON w.limit_id = l.id AND w.amount <> 0
   AND w.bucket BETWEEN llm.bucket(llm.clock(), l.window_seconds) - 64 AND llm.bucket(llm.clock(), l.window_seconds) + 64
 GROUP BY l.id, w.subject;

CREATE VIEW llm.budget_differences WITH (security_invoker = true) AS
-- Totals that are not the sum of the ledger: always empty. Calls of months that were dropped count in totals alone.
SELECT b.name, t.window_start, t.reserved_usd, s.reserved_usd AS sum_reserved_usd, t.spent_usd,
       s.spent_usd AS sum_spent_usd, t.reserved_tokens, s.reserved_tokens AS sum_reserved_tokens, t.spent_tokens,
       s.spent_tokens AS sum_spent_tokens
  FROM llm.budgets AS b JOIN llm.budget_totals AS t ON t.budget_id = b.id
 CROSS JOIN LATERAL llm.sums_of_budget(b, t.window_start) AS s
 WHERE (t.reserved_usd, t.spent_usd, t.reserved_tokens, t.spent_tokens)
       IS DISTINCT FROM (s.reserved_usd, s.spent_usd, s.reserved_tokens, s.spent_tokens);
