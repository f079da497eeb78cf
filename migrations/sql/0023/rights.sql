-- Workers work the lane, operators say how much may wait at a provider. Services put their own new jobs into a lane, and
-- have nothing else here: of batches they see no row.

REVOKE ALL ON llm.lanes, llm.batch_requests, llm.batch_allowances FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION runtime.put_in_lane, runtime.in_lane, llm.ensure_batch, llm.ask_in_batch,
  llm.release_ended, llm.release_lines, llm.gather_batch, llm.follow_up_batch FROM PUBLIC;
DROP POLICY batches_enqueue ON llm.batches;
DO $$
DECLARE
  v_role text;
BEGIN
  FOREACH v_role IN ARRAY ARRAY['gristmill_service', 'gristmill_worker', 'gristmill_dispatcher'] LOOP
    CONTINUE WHEN to_regrole(v_role) IS NULL;
    EXECUTE format('GRANT EXECUTE ON FUNCTION runtime.put_in_lane, runtime.in_lane TO %I', v_role);
  END LOOP;
  IF to_regrole('gristmill_service') IS NOT NULL THEN
    REVOKE INSERT ON llm.batches FROM gristmill_service;
    EXECUTE (SELECT format('REVOKE INSERT (%s) ON llm.batches FROM gristmill_service',
                           string_agg(quote_ident(attname), ', '))
               FROM pg_attribute WHERE attrelid = 'llm.batches'::regclass AND attnum > 0 AND NOT attisdropped);
  END IF;
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    GRANT SELECT, INSERT, UPDATE, DELETE ON llm.lanes, llm.batch_requests TO gristmill_worker;
    GRANT SELECT ON llm.batch_allowances TO gristmill_worker;
    GRANT EXECUTE ON FUNCTION llm.ensure_batch, llm.ask_in_batch, llm.release_ended, llm.release_lines, llm.gather_batch
      TO gristmill_worker;
  END IF;
  IF to_regrole('gristmill_operator') IS NOT NULL THEN
    GRANT INSERT, UPDATE, DELETE ON llm.batch_allowances TO gristmill_operator;
  END IF;
END $$;
