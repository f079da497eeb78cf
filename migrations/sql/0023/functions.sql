-- The door of the lane, and what the batch lane does for many questions at once.

CREATE FUNCTION runtime.put_in_lane(p_job_ids uuid[], p_lane text, p_within interval) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Say in which lane the jobs that this transaction has enqueued are answered; return of how many. In the batch lane an
-- answer may take p_within; a tenth of it (a minute at least, an hour at most) before its end the normal lane takes
-- over. Jobs of other transactions and of other owners keep their lanes: a repeated key does not move the first job.
DECLARE
  v_count integer;
  v_is_trusted boolean := runtime.is_trusted();
  v_actor uuid := runtime.actor_id();
BEGIN
  IF p_lane IS NULL OR p_lane NOT IN ('normal', 'batch') THEN
    RAISE EXCEPTION 'lane must be normal or batch, got %', coalesce(quote_literal(left(p_lane, 80)), 'nothing')
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF p_lane = 'normal' THEN RETURN 0; END IF;
  IF p_within IS NULL OR p_within NOT BETWEEN '5 minutes' AND '7 days' THEN
    RAISE EXCEPTION 'within must be from 5 minutes to 7 days, got %', coalesce(p_within::text, 'nothing')
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  INSERT INTO llm.lanes (job_id, stage, lane, within_until, take_over_at)
  SELECT j.id, j.stage, p_lane, now() + p_within,
         now() + p_within - least(greatest(p_within / 10, '1 minute'), '1 hour', p_within)
    FROM runtime.jobs AS j
   WHERE j.id = ANY (p_job_ids) AND j.created_at = now() AND j.version = 1 AND (v_is_trusted OR j.owner_id = v_actor)
      ON CONFLICT (job_id) DO NOTHING;
  GET DIAGNOSTICS v_count = ROW_COUNT;
  RETURN v_count;
END $$;

CREATE FUNCTION runtime.in_lane(p_job_id uuid, p_lane text DEFAULT 'batch', p_within interval DEFAULT '24 hours')
RETURNS uuid LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Put a job that this transaction has enqueued into a lane and return its id:
-- SELECT runtime.in_lane(scoring.enqueue_score(…), 'batch', '24 hours')
BEGIN
  PERFORM runtime.put_in_lane(ARRAY[p_job_id], p_lane, p_within);
  RETURN p_job_id;
END $$;

CREATE FUNCTION llm.ensure_batch(p_provider text, p_model text, p_gather double precision) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Have a job gather the questions for this provider and model, in so many seconds, unless one is about to. The row lock
-- keeps that one from being claimed before this transaction has committed its questions.
BEGIN
  PERFORM FROM llm.batches AS b
    WHERE b.provider = p_provider AND b.model = p_model AND b.status = 'pending' AND b.cancels IS NULL
      AND b.input_file_id IS NULL AND b.creating_since IS NULL
    ORDER BY b.id LIMIT 1 FOR SHARE;
  IF NOT FOUND THEN
    INSERT INTO llm.batches (provider, model, due_at)
    VALUES (p_provider, p_model, CASE WHEN p_gather > 0 THEN now() + make_interval(secs => p_gather) END);
  END IF;
END $$;

CREATE FUNCTION llm.ask_in_batch(p_questions jsonb, p_gather double precision)
RETURNS TABLE (place integer, became text, answer text, wait double precision, until timestamptz)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Look up or keep questions of jobs in the batch lane, and say of each (places from 1) what became of it:
--   answered  `answer` is the provider's
--   waiting   it waits for a batch or for its answer; `wait`: seconds until `until`, when the normal lane takes over
--   normal    the normal lane is to answer it: it is not in the batch lane, its time is nearly over, or its line failed
-- The run that asks last is the one that is woken.
DECLARE
  v_group record;
BEGIN
  UPDATE llm.batch_requests AS r SET state = 'released'
    FROM jsonb_to_recordset(p_questions) AS q (job_id uuid, key text)
   WHERE r.job_id = q.job_id AND r.key = decode(q.key, 'hex') AND r.state IN ('waiting', 'sent')
     AND NOT EXISTS (SELECT FROM llm.lanes AS l
                      WHERE l.job_id = q.job_id AND l.lane = 'batch' AND l.take_over_at > clock_timestamp());
  FOR v_group IN
    WITH kept AS (
      INSERT INTO llm.batch_requests AS r
             (job_id, stage, version, attempt, owner_id, project_id, profile_id, key, custom_id, provider, model, route,
              step, input_tokens, output_tokens, body, body_bytes, take_over_at, within_until)
      SELECT DISTINCT ON (q.job_id, q.key)
             q.job_id, q.stage, q.version, q.attempt, q.owner_id, q.project_id, q.profile_id, decode(q.key, 'hex'),
             q.custom_id, q.provider, q.model, q.route, q.step, q.input_tokens, q.output_tokens, q.body,
             octet_length(q.body), l.take_over_at, l.within_until
        FROM jsonb_to_recordset(p_questions) AS q (
               job_id uuid, stage text, version integer, attempt integer, owner_id uuid, project_id uuid, profile_id uuid,
               key text, custom_id text, provider text, model text, route text, step integer, input_tokens integer,
               output_tokens integer, body text)
        JOIN llm.lanes AS l ON l.job_id = q.job_id AND l.lane = 'batch' AND l.take_over_at > clock_timestamp()
       ORDER BY q.job_id, q.key
          ON CONFLICT (job_id, key) DO UPDATE SET version = greatest(r.version, excluded.version), woken_at = NULL
             WHERE r.state IN ('waiting', 'sent')
      RETURNING r.provider, r.model, r.state, r.batch_id)
    SELECT DISTINCT k.provider, k.model FROM kept AS k WHERE k.state = 'waiting' AND k.batch_id IS NULL ORDER BY 1, 2
  LOOP
    PERFORM llm.ensure_batch(v_group.provider, v_group.model, p_gather);
  END LOOP;
  RETURN QUERY
    SELECT q.place::integer,
           CASE WHEN r.state = 'answered' THEN 'answered' WHEN r.state IN ('waiting', 'sent') THEN 'waiting'
                ELSE 'normal' END,
           r.answer, extract(epoch FROM r.take_over_at - clock_timestamp())::double precision, r.take_over_at
      FROM ROWS FROM (jsonb_to_recordset(p_questions) AS (job_id uuid, key text)) WITH ORDINALITY
             AS q (job_id, key, place)
      LEFT JOIN llm.batch_requests AS r ON r.job_id = q.job_id AND r.key = decode(q.key, 'hex');
END $$;

CREATE FUNCTION llm.release_lines(p_provider text, p_model text, p_batch uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  SET enable_seqscan = on SET enable_bitmapscan = on SET enable_hashjoin = on SET enable_mergejoin = on AS $$
-- Take out the lines whose jobs have ended, cancelled ones above all: those of a batch, or those that wait for one. Each
-- job is looked for in its own table: runtime.jobs would look into all of them, for each of 50,000 lines.
DECLARE
  v_stage record;
BEGIN
  FOR v_stage IN
    SELECT s.name, s.table_name FROM runtime.stages AS s
     WHERE s.name IN (SELECT DISTINCT r.stage FROM llm.batch_requests AS r
                       WHERE CASE WHEN p_batch IS NULL
                                  THEN r.batch_id IS NULL AND r.provider = p_provider AND r.model = p_model
                                  ELSE r.batch_id = p_batch END AND r.state IN ('waiting', 'sent'))
  LOOP
    EXECUTE format(
      'UPDATE llm.batch_requests AS r SET state = ''released'' WHERE %s AND r.state IN (''waiting'', ''sent'') '
      'AND r.stage = $4 AND NOT EXISTS (SELECT FROM %s AS j WHERE j.id = r.job_id AND j.completed_at IS NULL)',
      CASE WHEN p_batch IS NULL THEN 'r.batch_id IS NULL AND r.provider = $1 AND r.model = $2 AND $3 IS NULL'
           ELSE 'r.batch_id = $3 AND $1 = $1 AND $2 = $2' END,
      v_stage.table_name::regclass)
    USING coalesce(p_provider, ''), coalesce(p_model, ''), p_batch, v_stage.name;
  END LOOP;
END $$;

CREATE FUNCTION llm.release_ended(p_batch uuid) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Take out the lines of a batch whose jobs have ended; return how many lines still matter.
BEGIN
  PERFORM llm.release_lines(NULL, NULL, p_batch);
  RETURN (SELECT count(*) FROM llm.batch_requests AS r WHERE r.batch_id = p_batch AND r.state IN ('waiting', 'sent'));
END $$;

CREATE FUNCTION llm.gather_batch(
  p_batch uuid, p_provider text, p_model text, p_most integer, p_most_bytes bigint,
  OUT lines integer, OUT bytes bigint, OUT tokens bigint, OUT left_over integer
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  SET enable_seqscan = on SET enable_bitmapscan = on SET enable_hashjoin = on SET enable_mergejoin = on AS $$
-- Give the batch the questions that wait for it, those that must be answered first at first, as many as it may have; and
-- say what it has then and how many are left over. Questions that it has already stay. The model's enqueued tokens stay
-- within its allowance.
DECLARE
  v_allowed bigint;
  v_enqueued bigint;
BEGIN
  PERFORM llm.release_lines(p_provider, p_model, NULL);
  SELECT min(a.enqueued_tokens) INTO v_allowed FROM llm.batch_allowances AS a
   WHERE a.provider = p_provider AND a.model IN ('', p_model);
  IF v_allowed IS NOT NULL THEN
    -- Two batches of one model that are gathered at once must see each other.
    PERFORM FROM llm.batch_allowances AS a WHERE a.provider = p_provider AND a.model IN ('', p_model)
      ORDER BY a.model FOR UPDATE;
    SELECT coalesce(sum(r.input_tokens), 0) INTO v_enqueued FROM llm.batch_requests AS r
     WHERE r.provider = p_provider AND r.batch_id IS NOT NULL AND NOT r.is_booked AND r.state <> 'answered'
       AND (r.model = p_model OR EXISTS (SELECT FROM llm.batch_allowances AS a
                                          WHERE a.provider = p_provider AND a.model = ''));
  END IF;
  SELECT count(*), coalesce(sum(r.body_bytes + 200), 0) INTO lines, bytes
    FROM llm.batch_requests AS r WHERE r.batch_id = p_batch;
  WITH waiting AS MATERIALIZED (
    SELECT r.id, r.body_bytes, r.input_tokens, r.within_until FROM llm.batch_requests AS r
     WHERE r.provider = p_provider AND r.model = p_model AND r.state = 'waiting' AND r.batch_id IS NULL
       AND r.take_over_at > clock_timestamp()
     ORDER BY r.within_until, r.id LIMIT greatest(p_most - lines, 0) FOR UPDATE SKIP LOCKED
  ), fitting AS (
    SELECT w.id, sum(w.body_bytes + 200) OVER (ORDER BY w.within_until, w.id) AS bytes_so_far,
           sum(w.input_tokens) OVER (ORDER BY w.within_until, w.id) AS tokens_so_far
      FROM waiting AS w
  )
  UPDATE llm.batch_requests AS r SET batch_id = p_batch, call_id = uuidv7(), is_booked = false
    FROM fitting AS f
   WHERE r.id = f.id AND bytes + f.bytes_so_far <= p_most_bytes
     AND (v_allowed IS NULL OR v_enqueued + f.tokens_so_far <= v_allowed);
  SELECT count(*), coalesce(sum(r.body_bytes + 200), 0), coalesce(sum(r.input_tokens), 0) INTO lines, bytes, tokens
    FROM llm.batch_requests AS r WHERE r.batch_id = p_batch;
  SELECT count(*) INTO left_over FROM llm.batch_requests AS r
   WHERE r.provider = p_provider AND r.model = p_model AND r.state = 'waiting' AND r.batch_id IS NULL
     AND r.take_over_at > clock_timestamp();
END $$;

CREATE FUNCTION llm.follow_up_batch() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- A batch that was cancelled or has failed here may go on at the provider, and jobs wait for its lines: another job
-- cancels it there, takes what is paid for, and lets the other lines go.
BEGIN
  IF TG_RELID <> 'llm.batches'::regclass THEN
    RAISE EXCEPTION '% follows llm.batches, not %', TG_NAME, TG_RELID::regclass USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF EXISTS (SELECT FROM llm.batch_requests AS r WHERE r.batch_id = NEW.id AND NOT r.is_booked) THEN
    INSERT INTO llm.batches (provider, model, cancels) VALUES (NEW.provider, NEW.model, NEW.id);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER follow_up AFTER UPDATE OF status ON llm.batches FOR EACH ROW
  WHEN (NEW.status IN ('cancelled', 'failed') AND OLD.status IS DISTINCT FROM NEW.status AND NEW.cancels IS NULL)
  EXECUTE FUNCTION llm.follow_up_batch();
