CREATE FUNCTION llm.kept_answer(
  p_fingerprint bytea, p_owner_id uuid, p_job_id uuid, p_share_seconds double precision
) RETURNS SETOF llm.answers LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
-- Return the answer to a question: the job's own, else one of the same owner that is young enough to be shared.
SELECT a.* FROM llm.answers AS a
 WHERE a.fingerprint = p_fingerprint AND a.owner_id IS NOT DISTINCT FROM p_owner_id
   AND a.expires_at > clock_timestamp()
   AND (a.job_id = p_job_id OR a.created_at > clock_timestamp() - make_interval(secs => p_share_seconds))
 ORDER BY a.job_id = p_job_id DESC, a.created_at DESC LIMIT 1
$$;

CREATE FUNCTION llm.answer_told(p_answer llm.answers) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
-- Return what a process reads of a kept answer.
SELECT jsonb_build_object('job_id', p_answer.job_id, 'raw', p_answer.raw, 'path', p_answer.path, 'model', p_answer.model,
  'input', p_answer.input_tokens, 'output', p_answer.output_tokens, 'seconds', p_answer.seconds)
$$;

CREATE FUNCTION llm.is_current(p_job_id uuid, p_version integer) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
-- Tell whether a job still is at this version: its run has not ended, and nobody has taken it over.
SELECT EXISTS (SELECT FROM runtime.jobs AS j WHERE j.id = p_job_id AND j.version = p_version)
$$;

CREATE FUNCTION llm.find_answers(p_questions jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off
  SET enable_mergejoin = off SET jit = off AS $$
-- Look for the answers to many questions: [{n, fingerprint (hex), owner_id, job_id, version, share_seconds}], n from 1.
-- The result has one value for each, in the order of n:
--   {"answer": {...}}                      what was kept
--   {"ask": true}                          nothing was kept: ask. A question with share_seconds is taken for its run
--   {"asked_by": job or null, "elapsed"}   another run of the same owner asks: look again later
-- Of several runs that look for one question, exactly one takes it.
DECLARE
  v_found jsonb;
  v_taken bytea[];
BEGIN
  SELECT jsonb_object_agg(q.n, llm.answer_told(a)) INTO v_found
    FROM jsonb_to_recordset(p_questions) AS q (
           n integer, fingerprint text, owner_id uuid, job_id uuid, share_seconds double precision)
   CROSS JOIN LATERAL llm.kept_answer(decode(q.fingerprint, 'hex'), q.owner_id, q.job_id, q.share_seconds) AS a;
  v_found := coalesce(v_found, '{}');

  IF EXISTS (SELECT FROM jsonb_to_recordset(p_questions) AS q (share_seconds double precision)
              WHERE q.share_seconds IS NOT NULL)
  THEN
    WITH taken AS (
      INSERT INTO llm.flights AS f (fingerprint, job_id, job_version)
      SELECT DISTINCT ON (q.fingerprint) decode(q.fingerprint, 'hex'), q.job_id, q.version
        FROM jsonb_to_recordset(p_questions) AS q (
               n integer, fingerprint text, job_id uuid, version integer, share_seconds double precision)
       WHERE q.share_seconds IS NOT NULL AND NOT v_found ? q.n::text
       ORDER BY q.fingerprint, q.n
      ON CONFLICT (fingerprint) DO UPDATE
        SET job_id = excluded.job_id, job_version = excluded.job_version, taken_at = excluded.taken_at
        WHERE (f.job_id = excluded.job_id AND f.job_version = excluded.job_version)
           OR NOT llm.is_current(f.job_id, f.job_version)
      RETURNING f.fingerprint
    )
    SELECT array_agg(fingerprint) INTO v_taken FROM taken;

    -- Who answered between the two statements has kept the answer and let go of the question.
    SELECT v_found || coalesce(jsonb_object_agg(q.n, llm.answer_told(a)), '{}') INTO v_found
      FROM jsonb_to_recordset(p_questions) AS q (
             n integer, fingerprint text, owner_id uuid, job_id uuid, share_seconds double precision)
     CROSS JOIN LATERAL llm.kept_answer(decode(q.fingerprint, 'hex'), q.owner_id, q.job_id, q.share_seconds) AS a
     WHERE q.share_seconds IS NOT NULL AND NOT v_found ? q.n::text;
    DELETE FROM llm.flights AS f
     USING jsonb_to_recordset(p_questions) AS q (n integer, fingerprint text, job_id uuid, version integer)
     WHERE f.fingerprint = ANY (v_taken) AND f.fingerprint = decode(q.fingerprint, 'hex') AND f.job_id = q.job_id
       AND f.job_version = q.version AND v_found ? q.n::text;
  END IF;

  RETURN (
    SELECT jsonb_agg(CASE
             WHEN v_found ? q.n::text THEN jsonb_build_object('answer', v_found -> q.n::text)
             WHEN q.share_seconds IS NULL OR (f.job_id = q.job_id AND f.job_version = q.version)
               THEN jsonb_build_object('ask', true)
             ELSE jsonb_build_object('asked_by', f.job_id,
                    'elapsed', coalesce(extract(epoch FROM clock_timestamp() - f.taken_at), 0)) END ORDER BY q.n)
      FROM jsonb_to_recordset(p_questions) AS q (
             n integer, fingerprint text, job_id uuid, version integer, share_seconds double precision)
      LEFT JOIN llm.flights AS f ON q.share_seconds IS NOT NULL AND f.fingerprint = decode(q.fingerprint, 'hex'));
END $$;

CREATE FUNCTION llm.keep_answers(p_answers jsonb) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off
  SET enable_mergejoin = off SET jit = off AS $$
-- Keep paid answers, each once by its id, and let go of their questions; return how many are new. The answer to a job
-- that was deleted is not kept.
DECLARE
  v_count integer;
BEGIN
  INSERT INTO llm.answers (id, fingerprint, owner_id, job_id, job_version, raw, path, model, input_tokens,
                           output_tokens, seconds, expires_at)
  SELECT a.id, decode(a.fingerprint, 'hex'), a.owner_id, a.job_id, a.version, a.raw, coalesce(a.path, '[]'), a.model,
         a.input, a.output, a.seconds, clock_timestamp() + make_interval(secs => a.keep_seconds)
    FROM jsonb_to_recordset(p_answers) AS a (id uuid, fingerprint text, owner_id uuid, job_id uuid, version integer,
           raw jsonb, path jsonb, model text, input integer, output integer, seconds double precision,
           keep_seconds double precision)
   WHERE EXISTS (SELECT FROM runtime.jobs AS j WHERE j.id = a.job_id)
  ON CONFLICT (id) DO NOTHING;
  GET DIAGNOSTICS v_count = ROW_COUNT;
  PERFORM llm.let_go(p_answers);
  RETURN v_count;
END $$;

CREATE FUNCTION llm.let_go(p_questions jsonb) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off
  SET enable_mergejoin = off SET jit = off AS $$
-- Let go of these questions, [{fingerprint (hex), job_id, version, shared}], as far as their runs hold them.
DECLARE
  v_count integer;
BEGIN
  IF NOT EXISTS (SELECT FROM jsonb_to_recordset(p_questions) AS q (shared boolean) WHERE q.shared) THEN
    RETURN 0;
  END IF;
  -- In the order in which they are taken.
  PERFORM FROM llm.flights AS f
    WHERE f.fingerprint = ANY (ARRAY(SELECT decode(q.fingerprint, 'hex')
                                       FROM jsonb_to_recordset(p_questions) AS q (fingerprint text, shared boolean)
                                      WHERE q.shared))
    ORDER BY f.fingerprint FOR UPDATE;
  DELETE FROM llm.flights AS f
   USING jsonb_to_recordset(p_questions) AS q (fingerprint text, job_id uuid, version integer, shared boolean)
   WHERE q.shared AND f.fingerprint = decode(q.fingerprint, 'hex') AND f.job_id = q.job_id
     AND f.job_version = q.version;
  GET DIAGNOSTICS v_count = ROW_COUNT;
  RETURN v_count;
END $$;

CREATE FUNCTION llm.forget_answers() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Delete what was kept for jobs that are deleted: answers quote what they were asked about.
BEGIN
  IF NOT EXISTS (SELECT FROM runtime.lifecycles AS l WHERE to_regclass(l.table_name) = TG_RELID) OR TG_OP <> 'DELETE' THEN
    RAISE EXCEPTION 'llm.forget_answers serves job tables only' USING ERRCODE = 'insufficient_privilege';
  END IF;
  DELETE FROM llm.answers WHERE job_id = ANY (ARRAY(SELECT id FROM gone));
  RETURN NULL;
END $$;

CREATE FUNCTION llm.follow_lifecycles() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Have every job table forget the answers of deleted jobs, also one that comes later.
DECLARE
  v_table regclass;
BEGIN
  FOR v_table IN SELECT to_regclass(l.table_name) FROM runtime.lifecycles AS l
                  WHERE to_regclass(l.table_name) IS NOT NULL AND NOT EXISTS (
                    SELECT FROM pg_trigger AS t
                     WHERE t.tgrelid = to_regclass(l.table_name) AND t.tgname = 'forget_answers')
  LOOP
    EXECUTE format('CREATE TRIGGER forget_answers AFTER DELETE ON %s REFERENCING OLD TABLE AS gone '
                   'FOR EACH STATEMENT EXECUTE FUNCTION llm.forget_answers()', v_table);
  END LOOP;
  RETURN NULL;
END $$;
CREATE TRIGGER follow_lifecycles AFTER INSERT ON runtime.lifecycles
  FOR EACH STATEMENT EXECUTE FUNCTION llm.follow_lifecycles();
-- A statement without rows has the trigger run for the tables that exist.
INSERT INTO runtime.lifecycles SELECT * FROM runtime.lifecycles WHERE false;
