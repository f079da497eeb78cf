ALTER TABLE scoring.profiles ALTER COLUMN owner_id DROP DEFAULT, DROP CONSTRAINT ck_profiles_times;
DROP POLICY profiles_access_policy ON scoring.profiles;
DROP POLICY scoring_jobs_access_policy ON scoring.scoring_jobs;
CREATE POLICY profiles_access_policy ON scoring.profiles FOR ALL
  USING (owner_id = nullif(current_setting('gristmill.user_id', true), '')::uuid);
CREATE POLICY scoring_jobs_access_policy ON scoring.scoring_jobs FOR ALL USING (profile_id IN (
  SELECT id FROM scoring.profiles WHERE owner_id = nullif(current_setting('gristmill.user_id', true), '')::uuid));

DROP FUNCTION scoring.enqueue_score;
CREATE FUNCTION scoring.enqueue_score(
  p_profile_id uuid, p_prompt text, p_model_name text DEFAULT 'gpt-3.5-turbo', p_priority integer DEFAULT 5,
  p_due_at timestamptz DEFAULT NULL, p_idempotency_key text DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql AS $$
-- Enqueue one scoring job in the caller's transaction; a repeated key returns the first job.
DECLARE
  v_id uuid;
BEGIN
  INSERT INTO scoring.scoring_jobs (profile_id, prompt, model_name, priority, due_at, idempotency_key)
  VALUES (p_profile_id, p_prompt, p_model_name, p_priority, p_due_at, p_idempotency_key)
  ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING RETURNING id INTO v_id;
  IF v_id IS NULL THEN
    SELECT id INTO STRICT v_id FROM scoring.scoring_jobs WHERE idempotency_key = p_idempotency_key;
  END IF;
  RETURN v_id;
END $$;
DO $$ BEGIN
  IF to_regrole('gristmill_service') IS NOT NULL THEN
    REVOKE ALL ON scoring.profiles, scoring.scoring_jobs FROM gristmill_service;
    GRANT SELECT, INSERT, UPDATE, DELETE ON scoring.profiles TO gristmill_service;
    GRANT SELECT, INSERT, UPDATE ON scoring.scoring_jobs TO gristmill_service;
  END IF;
END $$;
