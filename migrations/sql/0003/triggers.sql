-- What the lifecycle's guards do not know: what an assessment may not lose, and what each ending measures.
-- The refusals are AFTER triggers with a WHEN: a row that breaks no rule never calls a function.

CREATE FUNCTION assessments.update_updated_at_column() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.updated_at = now();
  RETURN NEW;
END $$;

-- The kernel's statements and the functions set it themselves; this is for an UPDATE by hand. Tickets and due times,
-- which the dispatcher moves, change nothing of an assessment.
CREATE TRIGGER update_assessment_states_updated_at
BEFORE UPDATE OF state, version, progress, priority, request_data, result_data, error_message, retry_count,
  max_retries, timeout_seconds, completed_at ON assessments.assessment_states
FOR EACH ROW WHEN (NEW.updated_at IS NOT DISTINCT FROM OLD.updated_at)
EXECUTE FUNCTION assessments.update_updated_at_column();

CREATE FUNCTION assessments.refuse_loss() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  v_rule text := CASE
    WHEN NEW.assessment_id <> OLD.assessment_id THEN 'its assessment_id cannot change'
    WHEN NOT NEW.request_data @> OLD.request_data THEN 'its request_data may gain keys, not lose or change them'
    WHEN OLD.result_data IS NOT NULL AND coalesce(NEW.result_data, 'null') = 'null' THEN 'its result cannot be erased'
    WHEN OLD.error_message IS NOT NULL AND NEW.error_message IS NULL AND NEW.version <> OLD.version
      THEN 'its error cannot be erased but by completing it'
    ELSE 'its data change only with its version, got ' || NEW.version || ' again' END;
BEGIN
  RAISE EXCEPTION 'assessment % (%): %', quote_literal(OLD.assessment_id), OLD.state, v_rule
    USING ERRCODE = 'check_violation';
END $$;

CREATE TRIGGER keep_request
AFTER UPDATE OF assessment_id, request_data ON assessments.assessment_states
FOR EACH ROW WHEN (
  NEW.assessment_id <> OLD.assessment_id
  OR NOT NEW.request_data @> OLD.request_data
  OR (NEW.version = OLD.version AND NEW.request_data <> OLD.request_data))
EXECUTE FUNCTION assessments.refuse_loss();

CREATE TRIGGER keep_result
AFTER UPDATE OF result_data, error_message, completed_at ON assessments.assessment_states
FOR EACH ROW WHEN (
  (OLD.result_data IS NOT NULL AND coalesce(NEW.result_data, 'null') = 'null')
  OR (OLD.error_message IS NOT NULL AND NEW.error_message IS NULL AND NEW.state <> 'completed')
  OR (NEW.version = OLD.version AND (NEW.result_data, NEW.error_message, NEW.completed_at)
                                    IS DISTINCT FROM (OLD.result_data, OLD.error_message, OLD.completed_at)))
EXECUTE FUNCTION assessments.refuse_loss();

CREATE FUNCTION assessments.measure_endings() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = on SET enable_mergejoin = on SET enable_seqscan = on AS $$
-- A whole batch at once: row by row this doubled the cost of a settle.
BEGIN
  PERFORM FROM new_rows WHERE completed_at IS NOT NULL LIMIT 1;
  IF FOUND THEN
    INSERT INTO assessments.assessment_metrics (assessment_id, metric_type, metric_value, timestamp)
    SELECT n.assessment_id, m.type, m.value, n.completed_at
      FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id
     CROSS JOIN LATERAL (VALUES
       ('processing_time', greatest(0, least(2147483647,
          round(extract(epoch FROM n.completed_at - n.started_at) * 1000)))::integer),
       ('retry_count', nullif(n.retry_count, 0)),
       ('error_count', nullif(n.retry_count + (n.state = 'failed')::integer, 0))) AS m (type, value)
     WHERE o.completed_at IS NULL AND n.completed_at IS NOT NULL AND m.value IS NOT NULL;
  END IF;
  RETURN NULL;
END $$;

CREATE TRIGGER measure_endings
AFTER UPDATE ON assessments.assessment_states REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
FOR EACH STATEMENT EXECUTE FUNCTION assessments.measure_endings();

CREATE FUNCTION assessments.remember_retired() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- History knows jobs by id: keep the name that goes with it, however the row was deleted.
BEGIN
  INSERT INTO assessments.retired_assessments (id, assessment_id) SELECT id, assessment_id FROM gone
  ON CONFLICT (id) DO UPDATE SET deleted_at = excluded.deleted_at;
  RETURN NULL;
END $$;

CREATE TRIGGER remember_retired
AFTER DELETE ON assessments.assessment_states REFERENCING OLD TABLE AS gone
FOR EACH STATEMENT EXECUTE FUNCTION assessments.remember_retired();
