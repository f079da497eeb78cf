-- Guards write notices and counts, the leading dispatcher takes and folds them, operators read. Services see none of it.

REVOKE ALL ON runtime.notices, runtime.notice_interests, runtime.notice_takers, runtime.count_deltas,
  runtime.stage_counts, runtime.minute_counts, runtime.counts FROM PUBLIC;
DO $$
DECLARE
  v_role text;
BEGIN
  FOREACH v_role IN ARRAY ARRAY['gristmill_worker', 'gristmill_dispatcher'] LOOP
    CONTINUE WHEN to_regrole(v_role) IS NULL;
    -- Whoever may change a job may have the fingerprint of its error made.
    EXECUTE format('GRANT EXECUTE ON FUNCTION runtime.cause_of, runtime.error_fingerprint TO %I', v_role);
  END LOOP;
  FOREACH v_role IN ARRAY ARRAY['gristmill_service', 'gristmill_worker', 'gristmill_dispatcher'] LOOP
    CONTINUE WHEN to_regrole(v_role) IS NULL;
    EXECUTE format('GRANT EXECUTE ON FUNCTION runtime.feed_step TO %I', v_role);
  END LOOP;
  FOREACH v_role IN ARRAY ARRAY['gristmill_worker', 'gristmill_dispatcher', 'gristmill_gateway'] LOOP
    CONTINUE WHEN to_regrole(v_role) IS NULL;
    EXECUTE format('GRANT SELECT ON runtime.count_deltas, runtime.stage_counts, runtime.minute_counts, runtime.counts '
                   'TO %I', v_role);
  END LOOP;
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    -- Maintenance deletes what is too old.
    GRANT SELECT, DELETE ON runtime.notices TO gristmill_worker;
    GRANT DELETE ON runtime.minute_counts TO gristmill_worker;
  END IF;
  IF to_regrole('gristmill_dispatcher') IS NOT NULL THEN
    GRANT DELETE ON runtime.count_deltas TO gristmill_dispatcher;
    GRANT INSERT, UPDATE ON runtime.stage_counts TO gristmill_dispatcher;
    GRANT INSERT, UPDATE ON runtime.minute_counts TO gristmill_dispatcher;
    GRANT EXECUTE ON FUNCTION runtime.take_notices TO gristmill_dispatcher;
  END IF;
  IF to_regrole('gristmill_operator') IS NOT NULL THEN
    GRANT UPDATE (problem) ON runtime.notices TO gristmill_operator;
    GRANT SELECT ON runtime.notice_interests, runtime.notice_takers TO gristmill_operator;
    GRANT EXECUTE ON FUNCTION runtime.recount_jobs TO gristmill_operator;
  END IF;
END $$;
