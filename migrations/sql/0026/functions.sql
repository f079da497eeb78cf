-- The cause of an error, the further triggers of job tables, and what the leading dispatcher and operators call.

CREATE FUNCTION runtime.cause_of(p_error text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
-- The error without what differs from job to job: ids, numbers, times and quoted texts become …; HTTP status codes stay.
-- As cause_of of workers/runtime/store/causes.py; a test compares both.
DECLARE
  c_differs CONSTANT text :=
       '\m[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\M'
    || '|''(?:[^''\\]|\\.)*''|"(?:[^"\\]|\\.)*"|`[^`]*`|«[^»]*»|“[^”]*”'
    || '|\m\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?'
    || '|\m0x[0-9a-fA-F]+\M'
    || '|\m(?=[0-9a-fA-F]*\d)[0-9a-fA-F]{12,}\M'
    || '|\m[A-Za-z]+[-_](?=[A-Za-z0-9]*\d)[A-Za-z0-9]{8,}\M'
    -- A number, but none that is three digits alone from 100 to 599.
    || '|(?<!\d)(?![1-5]\d\d(?!\d|[.,:]\d))\d+(?:[.,:]\d+)*';
  v_made text;
BEGIN
  v_made := regexp_replace(left(coalesce(p_error, ''), 10000), c_differs, '…', 'g');
  v_made := regexp_replace(v_made, '(?:(?! )\s)+| {2,}|[\x01-\x1f\x7f-\x9f]+', '…', 'g');
  v_made := btrim(regexp_replace(v_made, '(?:…[\s,;]*)+…', '…', 'g'));
  RETURN CASE WHEN length(v_made) > 160 THEN rtrim(left(v_made, 159)) || '…' ELSE v_made END;
END $$;

CREATE FUNCTION runtime.error_fingerprint(p_stage text, p_error text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
-- Equal for errors of one stage with one cause: 32 hexadecimal digits. NULL without an error.
  SELECT CASE WHEN p_error IS NOT NULL
              THEN left(encode(sha256(convert_to(p_stage || E'\n' || runtime.cause_of(p_error), 'UTF8')), 'hex'), 32) END
$$;

CREATE FUNCTION runtime.note_error() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Keep the fingerprint of a job's error. Arguments: the columns of the error and the state, the stage of each state, and
-- the stage of all other states.
DECLARE
  v_error text;
  v_state text;
BEGIN
  EXECUTE format('SELECT ($1).%s, ($2).%s::text', TG_ARGV[0], TG_ARGV[1]) USING NEW, OLD INTO v_error, v_state;
  NEW.error_fingerprint := runtime.error_fingerprint(coalesce(TG_ARGV[2]::jsonb ->> v_state, TG_ARGV[3]), v_error);
  RETURN NEW;
END $$;

CREATE FUNCTION runtime.count_gone() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Count deleted jobs, once per statement. Arguments: the job table, its column of the state, the stage of each state, the
-- stage of all other states, and the column with the state in which a job ended ('NULL' if there is none).
BEGIN
  IF TG_RELID <> TG_ARGV[0]::regclass AND NOT EXISTS (
      SELECT FROM pg_inherits WHERE inhrelid = TG_RELID AND inhparent = TG_ARGV[0]::regclass)
     OR NOT EXISTS (SELECT FROM runtime.lifecycles WHERE table_name = TG_ARGV[0]) THEN
    RAISE EXCEPTION '% counts jobs of %, not of %', TG_NAME, TG_ARGV[0], TG_RELID::regclass
      USING ERRCODE = 'insufficient_privilege';
  END IF;
  EXECUTE format($sql$
    INSERT INTO runtime.count_deltas (stage, old_state, action, jobs)
    SELECT coalesce($1 ->> o.%1$s::text, $1 ->> %2$s, $2), o.%1$s::text, 'delete', count(*)
      FROM %3$s AS o GROUP BY 1, 2$sql$, TG_ARGV[1], TG_ARGV[4],
    -- TRUNCATE of a partitioned table runs the triggers of its partitions too: each counts its own rows.
    CASE TG_OP WHEN 'TRUNCATE' THEN 'ONLY ' || TG_RELID::regclass ELSE 'old_rows' END)
    USING TG_ARGV[2]::jsonb, TG_ARGV[3];
  RETURN NULL;
END $$;

CREATE FUNCTION runtime.forget_counts() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- A stage that is no more has no counts.
BEGIN
  IF TG_RELID <> 'runtime.stages'::regclass THEN
    RAISE EXCEPTION '% is for runtime.stages, not for %', TG_NAME, TG_RELID::regclass
      USING ERRCODE = 'insufficient_privilege';
  END IF;
  DELETE FROM runtime.count_deltas WHERE stage IN (SELECT name FROM old_rows) OR new_stage IN (SELECT name FROM old_rows);
  DELETE FROM runtime.stage_counts WHERE stage IN (SELECT name FROM old_rows);
  DELETE FROM runtime.minute_counts WHERE stage IN (SELECT name FROM old_rows);
  RETURN NULL;
END $$;
CREATE TRIGGER forget_counts AFTER DELETE ON runtime.stages REFERENCING OLD TABLE AS old_rows
  FOR EACH STATEMENT EXECUTE FUNCTION runtime.forget_counts();

CREATE FUNCTION runtime.recount_jobs() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Count every job and correct what the counts say otherwise; return how many of them were wrong. One snapshot: what
-- others change meanwhile is counted by them. Of two at once the second waits, and then sees what the first corrected
-- (in PL/pgSQL each statement has a snapshot of its own). Reads whole tables.
DECLARE
  v_wrong integer;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'runtime.recount_jobs must run in a transaction that is read committed, got %',
      current_setting('transaction_isolation') USING ERRCODE = 'invalid_transaction_state';
  END IF;
  LOCK TABLE runtime.stage_counts IN SHARE UPDATE EXCLUSIVE MODE;  -- holds up another recount, and no fold
  WITH wrong AS (
    INSERT INTO runtime.count_deltas (stage, new_stage, new_state, action, jobs)
    SELECT stage, stage, state, 'recount', sum(jobs)
      FROM (SELECT stage, status AS state, count(*) AS jobs FROM runtime.jobs GROUP BY 1, 2
             UNION ALL
            SELECT stage, state, -jobs FROM runtime.counts) AS found
     GROUP BY stage, state HAVING sum(jobs) <> 0 RETURNING 1)
  SELECT count(*)::integer INTO v_wrong FROM wrong;
  RETURN v_wrong;
END $$;

CREATE FUNCTION runtime.take_notices(p_term bigint, p_limit integer) RETURNS TABLE (taken integer, refused integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = on SET enable_bitmapscan = on SET enable_sort = on AS $$
-- Hand up to p_limit notices, oldest first, to every taker, and delete them: what the takers write and the deletion are
-- one transaction. Nothing while there is no taker, or unless p_term leads. A notice that a taker refuses for its
-- values stays with the reason, and is not handed out again; the others go on without it.
DECLARE
  v_ids bigint[];
  v_notices runtime.notices[];
  v_one runtime.notices;
  v_taker record;
BEGIN
  taken := 0;
  refused := 0;
  IF NOT EXISTS (SELECT FROM runtime.notice_takers) THEN RETURN NEXT; RETURN; END IF;
  v_ids := ARRAY(SELECT id FROM runtime.notices WHERE problem IS NULL ORDER BY id LIMIT p_limit);
  IF v_ids = '{}' THEN RETURN NEXT; RETURN; END IF;
  PERFORM FROM runtime.dispatcher WHERE id = 1 AND term = p_term FOR SHARE;
  IF NOT FOUND THEN RETURN NEXT; RETURN; END IF;
  -- Those that are still there: another leader may have taken some before this one led.
  WITH gone AS (DELETE FROM runtime.notices AS n WHERE id = ANY (v_ids) RETURNING n.id, n AS whole)
  SELECT array_agg(whole ORDER BY id) INTO v_notices FROM gone;
  IF v_notices IS NULL THEN RETURN NEXT; RETURN; END IF;
  BEGIN
    FOR v_taker IN SELECT statement FROM runtime.notice_takers ORDER BY name LOOP
      EXECUTE v_taker.statement USING v_notices;
    END LOOP;
    taken := cardinality(v_notices);
    RETURN NEXT;
    RETURN;
  EXCEPTION
    WHEN data_exception OR integrity_constraint_violation OR raise_exception THEN NULL;  -- by one of them: which?
  END;
  FOREACH v_one IN ARRAY v_notices LOOP
    BEGIN
      FOR v_taker IN SELECT statement FROM runtime.notice_takers ORDER BY name LOOP
        EXECUTE v_taker.statement USING ARRAY[v_one];
      END LOOP;
      taken := taken + 1;
    EXCEPTION
      WHEN data_exception OR integrity_constraint_violation OR raise_exception THEN
        refused := refused + 1;
        INSERT INTO runtime.notices OVERRIDING SYSTEM VALUE
        SELECT v_one.id, v_one.job_id, v_one.stage, v_one.table_name, v_one.status, v_one.version, v_one.owner_id,
               v_one.callback_url, v_one.ended_at, left(SQLERRM, 2000);
    END;
  END LOOP;
  RETURN NEXT;
END $$;

CREATE FUNCTION runtime.feed_step(p_from bigint, p_rows integer) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- The number of a transaction such that about p_rows transitions lie from p_from to before it, those of others counted
-- too; NULL if there are not so many. With it, a reader who may see few transitions looks at few of others.
  SELECT max(id)::text::bigint + 1 FROM (
    SELECT transaction_id AS id FROM runtime.transitions WHERE transaction_id >= p_from::text::xid8
     ORDER BY transaction_id LIMIT least(p_rows, 10000)) AS step
  HAVING count(*) >= least(p_rows, 10000)
$$;

REVOKE EXECUTE ON FUNCTION runtime.cause_of, runtime.error_fingerprint, runtime.note_error, runtime.count_gone,
  runtime.forget_counts, runtime.recount_jobs, runtime.take_notices, runtime.feed_step FROM PUBLIC;

CREATE OR REPLACE FUNCTION runtime.rebuild_jobs_view() RETURNS void LANGUAGE plpgsql AS $$
-- Make runtime.jobs of the branches of all job tables. Each says which name is shown for a state, which gate keeps a
-- ready job back, and the fingerprint of its error.
DECLARE
  v_branches text;
BEGIN
  SELECT string_agg(format('SELECT b.*, %s AS shown_as FROM (%s) AS b',
                           CASE WHEN shown_as = '{}' THEN 'b.status'
                                ELSE format('coalesce(%L::jsonb ->> b.status, b.status)', shown_as) END,
                           replace(replace(jobs_branch, 'ELSE ''ready, waiting for the dispatcher''',
                                           format('ELSE coalesce(runtime.gate_told(s.name, %s), '
                                                  '''ready, waiting for the dispatcher'')',
                                                  coalesce('j.' || gate_column || '::text', 'NULL'))),
                                   'AS table_name, j.owner_id',
                                   format('AS table_name, j.owner_id, %s AS error_fingerprint',
                                          -- A package's table is made before it is brought to this generation.
                                          CASE WHEN EXISTS (SELECT FROM pg_attribute AS a
                                                             WHERE a.attrelid = to_regclass(table_name)
                                                               AND a.attname = 'error_fingerprint' AND NOT a.attisdropped)
                                               THEN 'j.error_fingerprint' ELSE 'NULL::text' END))),
                    ' UNION ALL ' ORDER BY table_name) INTO v_branches FROM runtime.lifecycles;
  DROP VIEW IF EXISTS runtime.jobs;
  IF v_branches IS NOT NULL THEN
    EXECUTE 'CREATE VIEW runtime.jobs WITH (security_invoker = true) AS ' || v_branches;
    IF to_regrole('gristmill_service') IS NOT NULL THEN GRANT SELECT ON runtime.jobs TO gristmill_service; END IF;
    IF to_regrole('gristmill_worker') IS NOT NULL THEN GRANT SELECT ON runtime.jobs TO gristmill_worker; END IF;
  END IF;
END $$;
