-- Profiles and their jobs belong to the profile's owner.

UPDATE scoring.profiles SET created_at = now() WHERE NOT (created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-31 00:00:00+00');
UPDATE scoring.profiles SET updated_at = now() WHERE NOT (updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-31 00:00:00+00');
ALTER TABLE scoring.profiles
  ALTER COLUMN owner_id SET DEFAULT runtime.actor_id(),
  ADD CONSTRAINT ck_profiles_times CHECK (created_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-31 00:00:00+00'
    AND updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-31 00:00:00+00');

DROP POLICY profiles_access_policy ON scoring.profiles;
DROP POLICY scoring_jobs_access_policy ON scoring.scoring_jobs;
CREATE POLICY profiles_access_policy ON scoring.profiles FOR ALL USING (owner_id = (SELECT runtime.actor_id()));
-- A profile that the tenant does not see has no owner for it: the job would be the tenant's own.
CREATE POLICY scoring_jobs_access_policy ON scoring.scoring_jobs FOR ALL
  USING (owner_id = (SELECT runtime.actor_id()))
  WITH CHECK (owner_id = (SELECT runtime.actor_id()) AND EXISTS (
    SELECT FROM scoring.profiles AS p WHERE p.id = profile_id AND p.owner_id = (SELECT runtime.actor_id())));

CREATE OR REPLACE FUNCTION scoring.enqueue_score(
  p_profile_id uuid, p_prompt text, p_model_name text DEFAULT 'gpt-3.5-turbo', p_priority integer DEFAULT 5,
  p_due_at timestamptz DEFAULT NULL, p_idempotency_key text DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Enqueue one scoring job in the caller's transaction. A key that its owner has used returns the first job, if that
-- was asked the same.
DECLARE
  v_id uuid;
  v_first record;
BEGIN
  INSERT INTO scoring.scoring_jobs (profile_id, prompt, model_name, priority, due_at, idempotency_key)
  VALUES (p_profile_id, p_prompt, p_model_name, coalesce(p_priority, 5), p_due_at, p_idempotency_key)
  ON CONFLICT (owner_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING RETURNING id INTO v_id;
  IF v_id IS NULL THEN
    SELECT j.id, array_remove(ARRAY[
             CASE WHEN j.profile_id <> p_profile_id THEN 'profile_id' END,
             CASE WHEN j.prompt <> p_prompt THEN 'prompt' END,
             CASE WHEN j.model_name <> p_model_name THEN 'model_name' END], NULL) AS differs
      INTO v_first FROM scoring.scoring_jobs AS j
     WHERE j.idempotency_key = p_idempotency_key AND j.owner_id IS NOT DISTINCT FROM coalesce(
             (SELECT p.owner_id FROM scoring.profiles AS p WHERE p.id = p_profile_id), runtime.actor_id());
    PERFORM runtime.refuse_key(p_idempotency_key, v_first.id, v_first.differs);
    v_id := v_first.id;
  END IF;
  RETURN v_id;
END $$;

REVOKE EXECUTE ON FUNCTION scoring.enqueue_score FROM PUBLIC;
DO $$ BEGIN
  IF to_regrole('gristmill_service') IS NOT NULL THEN
    GRANT EXECUTE ON FUNCTION scoring.enqueue_score TO gristmill_service;
    REVOKE INSERT, UPDATE ON scoring.profiles FROM gristmill_service;
    GRANT INSERT (id, owner_id, name, attributes), UPDATE (name, attributes) ON scoring.profiles TO gristmill_service;
  END IF;
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    GRANT EXECUTE ON FUNCTION scoring.enqueue_score TO gristmill_worker;
  END IF;
END $$;
