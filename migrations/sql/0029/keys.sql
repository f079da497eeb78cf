-- The rule of repeated keys, once for all doors: the Python door and the SQL door call runtime.repeat_jobs.

CREATE FUNCTION runtime.failed_states(p_table text) RETURNS text[] LANGUAGE sql STABLE SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$
-- Return the ends of a lifecycle that are not good.
SELECT array_agg(t.state ORDER BY t.place)
  FROM runtime.lifecycles AS l CROSS JOIN unnest(l.terminal) WITH ORDINALITY AS t(state, place)
 WHERE l.table_name = p_table AND t.place > 1 AND coalesce(l.ends ->> t.state, '') <> 'good'
$$;

CREATE FUNCTION runtime.status_column(p_table text) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$
-- As its part of runtime.jobs names it, quoted where needed.
SELECT substring(l.jobs_branch FROM 'AS stage, j\.(\S+)::text AS status') FROM runtime.lifecycles AS l
 WHERE l.table_name = p_table
$$;

CREATE FUNCTION runtime.key_fact(p_table text) RETURNS text LANGUAGE sql STABLE
  SET search_path = pg_catalog, pg_temp AS $$
-- Return what the update guard of a table compares with the new key of a job: nothing if the job has ended without
-- success and loses its key. All else that the guard compares must then be the same.
SELECT format('CASE WHEN n.idempotency_key IS NULL AND o.idempotency_key IS NOT NULL AND n.version = o.version '
              'AND o.%s::text = ANY (%L::text[]) THEN NULL ELSE o.idempotency_key END',
              runtime.status_column(p_table), runtime.failed_states(p_table))
$$;

CREATE FUNCTION runtime.let_keys_go() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Let the guard of every job table, also of one that comes later, accept that an ended job without success loses its key.
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
    IF strpos(v.guard, v.fact) = 0 THEN
      EXECUTE replace(v.guard, 'o.idempotency_key', v.fact);
    END IF;
  END LOOP;
  RETURN NULL;
END $$;
CREATE TRIGGER let_keys_go AFTER INSERT OR UPDATE ON runtime.lifecycles
  FOR EACH STATEMENT EXECUTE FUNCTION runtime.let_keys_go();
-- A statement without rows has the trigger run for the tables that exist.
INSERT INTO runtime.lifecycles SELECT * FROM runtime.lifecycles WHERE false;

CREATE FUNCTION runtime.release_keys(p_table text, p_job_ids uuid[]) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Take the keys from jobs that ended without success; return from how many. Who may cancel a job may do it.
DECLARE
  v_count integer;
  v_may text;
BEGIN
  SELECT substring(l.cancel_statement FROM '\(\$3 OR (.*)\)\s*$') INTO v_may
    FROM runtime.lifecycles AS l WHERE l.table_name = p_table;
  IF v_may IS NULL THEN
    RAISE EXCEPTION 'table must be one of jobs, got %', coalesce(quote_literal(left(p_table, 80)), 'nothing')
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  EXECUTE format(
    'WITH ended AS (SELECT j.id FROM %1$s AS j WHERE j.id = ANY ($1) AND j.idempotency_key IS NOT NULL '
    'AND j.%2$s::text = ANY ($2) AND ($3 OR %3$s) ORDER BY j.id FOR UPDATE) '
    'UPDATE %1$s AS j SET idempotency_key = NULL FROM ended WHERE j.id = ended.id',
    p_table::regclass, runtime.status_column(p_table), v_may)
  USING p_job_ids, runtime.failed_states(p_table), runtime.is_trusted();
  GET DIAGNOSTICS v_count = ROW_COUNT;
  RETURN v_count;
END $$;

CREATE FUNCTION runtime.first_job_statement(p_table text, p_fields jsonb) RETURNS text LANGUAGE sql STABLE
  SET search_path = pg_catalog, pg_temp AS $$
-- Return the statement that finds, for each row of $1 (columns by name), the job that has its key: ordinal from 0, id,
-- the fields that differ, and whether the job ended without success ($2: those states).
SELECT format(
  'SELECT e.nth::integer - 1 AS ordinal, e.job AS row, j.id AS first, '
  'CASE WHEN j.id IS NULL THEN ''{}'' ELSE array_remove(ARRAY[%1$s]::text[], NULL) END AS differs, '
  'j.%2$s::text = ANY ($2) AS has_failed '
  'FROM jsonb_array_elements($1) WITH ORDINALITY AS e(job, nth) '
  'CROSS JOIN LATERAL jsonb_populate_record(NULL::%3$s, e.job) AS r '
  'CROSS JOIN LATERAL (SELECT %4$s(r) AS owner_id OFFSET 0) AS o '
  -- An index does not serve IS NOT DISTINCT FROM.
  'LEFT JOIN LATERAL (SELECT f.* FROM %3$s AS f WHERE f.owner_id = o.owner_id AND f.idempotency_key = r.idempotency_key '
  'UNION ALL SELECT f.* FROM %3$s AS f WHERE f.owner_id IS NULL AND o.owner_id IS NULL '
  'AND f.idempotency_key = r.idempotency_key) AS j ON true ORDER BY e.nth',
  (SELECT string_agg(CASE WHEN f ->> 'grows' = 'true'
                          THEN format('CASE WHEN NOT runtime.keeps(r.%1$I, j.%1$I) THEN %2$L END', f ->> 'column', f ->> 'name')
                          ELSE format('CASE WHEN j.%1$I IS DISTINCT FROM r.%1$I THEN %2$L END', f ->> 'column', f ->> 'name')
                          END, ', ' ORDER BY nth)
     FROM jsonb_array_elements(p_fields) WITH ORDINALITY AS e(f, nth) WHERE f ->> 'may_differ' IS DISTINCT FROM 'true'),
  runtime.status_column(p_table), p_table::regclass,
  format('%I.%I', split_part(p_table, '.', 1), 'owner_of_' || split_part(p_table, '.', 2)))
$$;

CREATE FUNCTION runtime.rerun_job(p_table text, p_columns text[], p_fields jsonb, p_row jsonb, p_first uuid,
  OUT id uuid, OUT created boolean, OUT differs text[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Give the key of a job that ended without success (p_first; NULL: no job is seen) to a new job. Of several callers one
-- makes the job, and the others get it.
DECLARE
  v_find text := runtime.first_job_statement(p_table, p_fields);
  v_failed text[] := runtime.failed_states(p_table);
  v_first record;
  v_said text := current_setting('gristmill.change_reason', true);
BEGIN
  created := false;
  differs := '{}';
  FOR v_try IN 1 .. 5 LOOP
    IF p_first IS NOT NULL THEN
      PERFORM runtime.release_keys(p_table, ARRAY[p_first]);
      PERFORM set_config('gristmill.change_reason',
                         concat_ws('; ', nullif(v_said, ''), 'takes the key of job ' || p_first), true);
    END IF;
    EXECUTE format(
      'INSERT INTO %1$s (%2$s) SELECT %3$s FROM jsonb_populate_record(NULL::%1$s, $1) AS r '
      'ON CONFLICT (owner_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING RETURNING id',
      p_table::regclass, (SELECT string_agg(quote_ident(c), ', ') FROM unnest(p_columns) AS c),
      (SELECT string_agg(format('r.%I', c), ', ') FROM unnest(p_columns) AS c))
    INTO rerun_job.id USING p_row;
    PERFORM set_config('gristmill.change_reason', coalesce(v_said, ''), true);
    IF rerun_job.id IS NOT NULL THEN
      created := true;
      RETURN;
    END IF;
    EXECUTE v_find INTO v_first USING jsonb_build_array(p_row), v_failed;
    IF v_first.first IS NOT NULL AND NOT (v_first.has_failed AND p_first IS NOT NULL) THEN
      rerun_job.id := v_first.first;
      differs := v_first.differs;
      RETURN;
    END IF;
    p_first := v_first.first;
  END LOOP;
END $$;

CREATE FUNCTION runtime.repeat_jobs(p_table text, p_columns text[], p_fields jsonb, p_rows jsonb, p_rerun boolean[])
RETURNS TABLE (ordinal integer, id uuid, created boolean, differs text[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Return the job of each row with a key that was used before: by default the first job, and which fields of the row
-- differ from it. If the row may rerun and the first job ended without success, a new job takes the key: then
-- the fields may differ. The id is NULL if another job has the key and this session may not see it. Rows are objects by
-- column; p_fields are [{name, column, grows, may_differ}]; p_rerun has a value for each row.
DECLARE
  v record;
  v_again record;
BEGIN
  FOR v IN EXECUTE runtime.first_job_statement(p_table, p_fields) USING p_rows, runtime.failed_states(p_table) LOOP
    ordinal := v.ordinal;
    IF v.first IS NOT NULL AND NOT (v.has_failed AND p_rerun[v.ordinal + 1]) THEN
      repeat_jobs.id := v.first;
      created := false;
      differs := v.differs;
    ELSE
      v_again := runtime.rerun_job(p_table, p_columns, p_fields, v.row, v.first);
      repeat_jobs.id := v_again.id;
      created := v_again.created;
      differs := v_again.differs;
    END IF;
    RETURN NEXT;
  END LOOP;
END $$;
