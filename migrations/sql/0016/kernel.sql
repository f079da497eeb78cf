-- No row that the kernel reads can stop it: no time and no number that it cannot reckon with, no text without an end.

-- Rows of processes: whoever is alive writes its own again.
DELETE FROM runtime.workers
 WHERE NOT coalesce(lease_seconds > 0 AND lease_seconds <= 86400 AND slots BETWEEN 0 AND 100000
                    AND running BETWEEN 0 AND 100000 AND array_position(queues, NULL) IS NULL
                    AND octet_length(queues::text) <= 65536
                    AND (provider IS NULL OR pg_column_size(provider || '{}'::jsonb) <= 65536), false);
ALTER TABLE runtime.workers
  ADD CONSTRAINT ck_workers_lease_seconds CHECK (lease_seconds > 0 AND lease_seconds <= 86400),
  ADD CONSTRAINT ck_workers_slots CHECK (slots BETWEEN 0 AND 100000),
  ADD CONSTRAINT ck_workers_running CHECK (running BETWEEN 0 AND 100000),
  ADD CONSTRAINT ck_workers_queues CHECK (array_position(queues, NULL) IS NULL AND octet_length(queues::text) <= 65536),
  ADD CONSTRAINT ck_workers_provider CHECK (pg_column_size(provider || '{}'::jsonb) <= 65536);

DELETE FROM runtime.dispatcher WHERE NOT coalesce(term > 0 AND expires_at <= seen_at + interval '1 hour', false);
ALTER TABLE runtime.dispatcher
  ADD CONSTRAINT ck_dispatcher_term CHECK (term > 0),
  ADD CONSTRAINT ck_dispatcher_lease CHECK (expires_at <= seen_at + interval '1 hour');

UPDATE runtime.stages SET limit_at_most = NULL WHERE limit_at_most < 1;
ALTER TABLE runtime.stages ADD CONSTRAINT ck_stages_limit_at_most CHECK (limit_at_most >= 1);

UPDATE runtime.ticks SET refusal = left(refusal, 2000) WHERE length(refusal) > 100000;
UPDATE runtime.schedules SET refusal = left(refusal, 2000) WHERE length(refusal) > 100000;
ALTER TABLE runtime.ticks ADD CONSTRAINT ck_ticks_refusal CHECK (length(refusal) <= 100000);
ALTER TABLE runtime.schedules ADD CONSTRAINT ck_schedules_refusal CHECK (length(refusal) <= 100000);

DELETE FROM runtime.provider_pauses WHERE octet_length(provider) > 2000 OR octet_length(reason) > 20000;
ALTER TABLE runtime.provider_pauses
  ADD CONSTRAINT ck_provider_pauses_provider CHECK (octet_length(provider) <= 2000),
  ADD CONSTRAINT ck_provider_pauses_reason CHECK (octet_length(reason) <= 20000);

-- Every time: finite, and a day away from the ends that Python knows.
DO $$
DECLARE
  v_table record;
  v_times text;
  v_mended text;
  v_insane text;
BEGIN
  FOR v_table IN
    SELECT c.oid::regclass AS name, c.relname, array_agg(format('%I', a.attname) ORDER BY a.attnum) AS times
      FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE c.relnamespace = 'runtime'::regnamespace AND c.relkind = 'r' AND NOT c.relispartition
       AND a.atttypid = 'timestamptz'::regtype AND c.relname <> 'schedules'
     GROUP BY c.oid, c.relname
  LOOP
    SELECT string_agg(format('%s = greatest(least(%s, ''9999-12-31 00:00:00+00''), ''0001-01-02 00:00:00+00'')', t, t), ', '),
           string_agg(format('%s NOT BETWEEN ''0001-01-02 00:00:00+00'' AND ''9999-12-31 00:00:00+00''', t), ' OR '),
           string_agg(format('(%s BETWEEN ''0001-01-02 00:00:00+00'' AND ''9999-12-31 00:00:00+00'')', t), ' AND ')
      INTO v_mended, v_insane, v_times FROM unnest(v_table.times) AS t;
    EXECUTE format('UPDATE %s SET %s WHERE %s', v_table.name, v_mended, v_insane);
    EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I CHECK (%s)', v_table.name,
                   'ck_' || v_table.relname || '_sane_times', v_times);
  END LOOP;
END $$;

CREATE OR REPLACE FUNCTION runtime.has_worker(p_stage text) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT EXISTS (SELECT FROM runtime.workers
                  WHERE split_part(p_stage, '.', 1) = ANY (queues) AND draining_at IS NULL
                    AND heartbeat_at > now() - make_interval(secs => greatest(least(lease_seconds, 86400), 0))
                    AND heartbeat_at < now() + interval '1 minute')
$$;

-- How long history is kept, as `gristmill migrate` was told: whoever drops months drops none younger than that.
CREATE TABLE runtime.retention (
  id integer NOT NULL DEFAULT 1 CONSTRAINT pk_retention PRIMARY KEY CONSTRAINT ck_retention_one_row CHECK (id = 1),
  transitions_days integer NOT NULL CONSTRAINT ck_retention_transitions_days CHECK (transitions_days BETWEEN 31 AND 365000)
);
REVOKE ALL ON runtime.retention FROM PUBLIC;

CREATE OR REPLACE FUNCTION runtime.drop_transition_partitions(p_older_than interval) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Drop the months that ended before the cutoff and return their names; dropping a month costs no vacuum. History of the
-- last month is nobody's to drop, nor is any that runtime.retention keeps: that table is the owner's alone.
DECLARE
  v_name text;
  v_dropped text[] := '{}';
  v_cutoff timestamptz;
BEGIN
  IF p_older_than IS NULL OR now() - p_older_than > now() - interval '31 days' THEN
    RAISE EXCEPTION 'history must be kept for 31 days or more, got %', p_older_than
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  v_cutoff := least(now() - p_older_than, now() - (SELECT make_interval(days => transitions_days) FROM runtime.retention));
  LOCK TABLE runtime.transitions_default IN SHARE UPDATE EXCLUSIVE MODE;
  FOR v_name IN
    SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'runtime.transitions'::regclass AND c.relname ~ '^transitions_\d{4}_\d{2}$'
       AND (to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month') AT TIME ZONE 'UTC' < v_cutoff
  LOOP
    EXECUTE format('DROP TABLE runtime.%I', v_name);
    v_dropped := v_dropped || v_name;
  END LOOP;
  RETURN v_dropped;
END $$;
