-- The months of llm.calls, as runtime.transitions has them (0007).

CREATE FUNCTION llm.ensure_call_partitions(p_months_ahead integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Make the partitions of this month and the next ones; move rows that already fell into the default partition.
DECLARE
  v_from timestamptz;
  v_to timestamptz;
  v_name text;
  v_made integer := 0;
BEGIN
  LOCK TABLE llm.calls_default IN SHARE UPDATE EXCLUSIVE MODE;  -- two at once would make a month twice
  FOR i IN 0..p_months_ahead LOOP
    v_from := (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i)) AT TIME ZONE 'UTC';
    v_to := (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i + 1)) AT TIME ZONE 'UTC';
    v_name := 'calls_' || to_char(v_from AT TIME ZONE 'UTC', 'YYYY_MM');
    CONTINUE WHEN to_regclass('llm.' || v_name) IS NOT NULL;
    EXECUTE format('CREATE TABLE llm.%I (LIKE llm.calls INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', v_name);
    EXECUTE format(
      'WITH moved AS (DELETE FROM llm.calls_default WHERE created_at >= %L AND created_at < %L RETURNING *)
       INSERT INTO llm.%I SELECT * FROM moved', v_from, v_to, v_name);
    EXECUTE format('ALTER TABLE llm.calls ATTACH PARTITION llm.%I FOR VALUES FROM (%L) TO (%L)', v_name, v_from, v_to);
    v_made := v_made + 1;
  END LOOP;
  RETURN v_made;
END $$;

CREATE FUNCTION llm.drop_call_partitions(p_older_than interval) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Drop the months that ended before the cutoff and return their names. The window of a budget is a month at most, and
-- what a budget without a window has spent stays in its total: calls of the last two months are nobody's to drop.
DECLARE
  v_name text;
  v_dropped text[] := '{}';
BEGIN
  IF p_older_than IS NULL OR now() - p_older_than > now() - interval '31 days' THEN
    RAISE EXCEPTION 'calls must be kept for 31 days or more, got %', p_older_than
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  LOCK TABLE llm.calls_default IN SHARE UPDATE EXCLUSIVE MODE;
  FOR v_name IN
    SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'llm.calls'::regclass AND c.relname ~ '^calls_\d{4}_\d{2}$'
       AND (to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month') AT TIME ZONE 'UTC'
           < now() - greatest(p_older_than, interval '62 days')
  LOOP
    EXECUTE format('DROP TABLE llm.%I', v_name);
    v_dropped := v_dropped || v_name;
  END LOOP;
  RETURN v_dropped;
END $$;
SELECT llm.ensure_call_partitions(3);
