-- What the bearer of a link may do. Both functions take the token as it stands in the link; a wrong one finds nothing.

CREATE FUNCTION runtime.read_approval(p_token text)
RETURNS TABLE (
  job_id uuid, version integer, recipient text, purpose text, decides text[], question jsonb, created_at timestamptz,
  expires_at timestamptz, is_over boolean, revoked_at timestamptz, used_at timestamptz, decision text, note text,
  action text, became text, moved_by text, moved_at timestamptz
) LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- What this link is about and what became of its wait: the transition that ended it, if there is one, with the public
-- name of the state. Changes nothing.
  SELECT t.job_id, t.version, t.recipient::text, t.purpose::text, t.decides, t.question, t.created_at, t.expires_at,
         t.expires_at <= clock_timestamp(), t.revoked_at, t.used_at, t.decision::text, t.note,
         h.change_action::text, coalesce(l.shown_as ->> h.new_state, h.new_state), h.changed_by::text, h.created_at
    FROM runtime.approval_tokens AS t
    JOIN runtime.lifecycles AS l ON l.table_name = t.table_name
    LEFT JOIN LATERAL (
      SELECT m.change_action, m.new_state, m.changed_by, m.created_at FROM runtime.transitions AS m
       WHERE m.job_id = t.job_id AND m.version_to = t.version + 1
         AND m.stage IN (SELECT s.name FROM runtime.stages AS s WHERE s.table_name = t.table_name)
       ORDER BY m.created_at LIMIT 1) AS h ON true
   WHERE t.token_hash = sha256(convert_to(p_token, 'UTF8'))
$$;

CREATE FUNCTION runtime.decide_by_token(p_token text, p_into text, p_note text DEFAULT NULL)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Lead the wait that this link is about to the state p_into, in the name of its recipient; true if it was so decided.
-- False where the link is unknown, used, taken back or expired, does not lead to that state, or the wait has ended.
-- The link is marked in the same transaction: if that does not commit, neither is used.
DECLARE
  v_link runtime.approval_tokens;
  v_statement text;
  v_said text := current_setting('gristmill.changed_by', true);
  v_done integer;
BEGIN
  SELECT t.* INTO v_link FROM runtime.approval_tokens AS t
   WHERE t.token_hash = sha256(convert_to(p_token, 'UTF8')) AND t.used_at IS NULL AND t.revoked_at IS NULL
     AND t.expires_at > clock_timestamp() AND p_into = ANY (t.decides)
     FOR UPDATE;
  IF NOT FOUND THEN RETURN false; END IF;
  SELECT l.decide_statement INTO v_statement FROM runtime.lifecycles AS l WHERE l.table_name = v_link.table_name;
  IF v_statement IS NULL THEN RETURN false; END IF;
  PERFORM set_config('gristmill.changed_by', v_link.recipient, true);
  EXECUTE v_statement USING v_link.job_id, v_link.version, p_into,
    coalesce(nullif(left(p_note, 1000), ''), 'decided by a link, for ' || v_link.purpose), NULL::timestamptz, true;
  GET DIAGNOSTICS v_done = ROW_COUNT;
  PERFORM set_config('gristmill.changed_by', coalesce(v_said, ''), true);
  IF v_done = 0 THEN RETURN false; END IF;
  UPDATE runtime.approval_tokens AS t
     SET used_at = clock_timestamp(), decision = p_into, note = nullif(left(p_note, 2000), ''),
         ip_address = nullif(current_setting('gristmill.ip_address', true), '')::inet,
         user_agent = left(nullif(current_setting('gristmill.user_agent', true), ''), 500)
   WHERE t.id = v_link.id;
  RETURN true;
END $$;

REVOKE EXECUTE ON FUNCTION runtime.read_approval(text), runtime.decide_by_token(text, text, text) FROM PUBLIC;
DO $$
DECLARE
  v_role text;
BEGIN
  FOREACH v_role IN ARRAY ARRAY['gristmill_gateway', 'gristmill_worker'] LOOP
    IF to_regrole(v_role) IS NOT NULL THEN
      EXECUTE format('GRANT EXECUTE ON FUNCTION runtime.read_approval(text), '
                     'runtime.decide_by_token(text, text, text) TO %I', v_role);
    END IF;
  END LOOP;
END $$;
