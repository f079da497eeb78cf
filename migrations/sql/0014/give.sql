-- Give an assessment that nobody owns to a user. For operators; the guard allows it once, and never the way back.

CREATE FUNCTION assessments.give_assessment(p_assessment_id varchar(255), p_owner uuid) RETURNS integer
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Return the new version, null where only the history of the assessment is left. History and measurements go with it.
DECLARE
  v_old assessments.assessment_states;
  v_version integer;
  v_retired integer;
BEGIN
  IF NOT runtime.is_trusted() THEN
    RAISE EXCEPTION 'only an operator may give an assessment to an owner' USING ERRCODE = 'insufficient_privilege';
  ELSIF p_owner IS NULL THEN
    RAISE EXCEPTION 'owner must be given, got nothing' USING ERRCODE = 'null_value_not_allowed';
  END IF;
  SELECT * INTO v_old FROM assessments.assessment_states
   WHERE assessment_id = p_assessment_id AND owner_id IS NULL FOR UPDATE;
  IF v_old.state = 'processing' THEN
    RAISE EXCEPTION 'assessment % is processing: give it when it has ended, or cancel it first',
      quote_literal(p_assessment_id) USING ERRCODE = 'object_not_in_prerequisite_state';
  ELSIF v_old.id IS NOT NULL AND EXISTS (SELECT FROM assessments.assessment_states
                                          WHERE assessment_id = p_assessment_id AND owner_id = p_owner) THEN
    RAISE EXCEPTION 'user % has an assessment % already', p_owner, quote_literal(p_assessment_id)
      USING ERRCODE = 'unique_violation';
  END IF;
  UPDATE assessments.assessment_states SET
    owner_id = p_owner,
    version = version + 1,
    -- The message that carries its ticket names the version before: give it another ticket at once.
    dispatched_at = NULL,
    updated_at = now(),
    change_action = 'give',
    change_reason = nullif(current_setting('gristmill.change_reason', true), '')
  WHERE id = v_old.id RETURNING version INTO v_version;
  UPDATE assessments.retired_assessments SET owner_id = p_owner
   WHERE assessment_id = p_assessment_id AND owner_id IS NULL;
  GET DIAGNOSTICS v_retired = ROW_COUNT;
  UPDATE assessments.assessment_metrics SET owner_id = p_owner
   WHERE assessment_id = p_assessment_id AND owner_id IS NULL;
  IF v_version IS NULL AND v_retired = 0 THEN
    RAISE EXCEPTION 'no assessment % without an owner exists', quote_literal(p_assessment_id)
      USING ERRCODE = 'no_data_found';
  END IF;
  RETURN v_version;
END $$;

REVOKE EXECUTE ON FUNCTION assessments.give_assessment(varchar, uuid) FROM PUBLIC;
DO $$ BEGIN
  IF to_regrole('gristmill_operator') IS NOT NULL THEN
    GRANT USAGE ON SCHEMA assessments TO gristmill_operator;
    GRANT EXECUTE ON FUNCTION assessments.give_assessment(varchar, uuid) TO gristmill_operator;
  END IF;
END $$;
