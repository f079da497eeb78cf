-- What a service deletes, it deletes by a function. A right to DELETE would let it lock the whole table against everybody.
-- Each function applies the policies of its table and returns what was deleted: what the caller may not delete is as what
-- is not there.

CREATE FUNCTION scoring.delete_profile(p_profile_id uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Delete a profile of the acting user with its jobs; an operator may delete any. Unfinished jobs are cancelled first:
-- their history stays, and a job without an end in it counts as lost.
BEGIN
  PERFORM runtime.cancel(j.id, 'removed with its profile')
     FROM scoring.scoring_jobs AS j JOIN scoring.profiles AS p ON p.id = j.profile_id
    WHERE p.id = p_profile_id AND j.completed_at IS NULL AND (p.owner_id = runtime.actor_id() OR runtime.is_trusted());
  DELETE FROM scoring.profiles
   WHERE id = p_profile_id AND (owner_id = runtime.actor_id() OR runtime.is_trusted());
  RETURN FOUND;
END $$;

CREATE FUNCTION operations.delete_project(p_project_id uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Delete a project with its records, ratings, files and jobs: its owner may, an admin and an operator.
-- Unfinished jobs are cancelled first, as by scoring.delete_profile.
BEGIN
  IF operations.may_change(p_project_id) OR runtime.is_trusted() THEN
    PERFORM runtime.cancel(j.id, 'removed with its project') FROM operations.ingest_jobs AS j
      WHERE j."projectId" = p_project_id AND j.completed_at IS NULL;
    PERFORM runtime.cancel(j.id, 'removed with its project') FROM operations.analytics_jobs AS j
      WHERE j."projectId" = p_project_id AND j.completed_at IS NULL;
  END IF;
  DELETE FROM operations.projects
   WHERE id = p_project_id AND (operations.may_change(id) OR runtime.is_trusted());
  RETURN FOUND;
END $$;

CREATE FUNCTION operations.delete_records(p_record_ids uuid[]) RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Delete records of projects that the acting user may change, with their ratings; return the ids of those deleted.
BEGIN
  RETURN QUERY DELETE FROM operations.data_records AS r
   WHERE r.id = ANY (p_record_ids) AND (operations.may_change(r."projectId") OR runtime.is_trusted())
  RETURNING r.id;
END $$;

CREATE FUNCTION operations.delete_likert_score(p_likert_score_id uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Delete a rating: who gave it may, an admin and an operator.
BEGIN
  DELETE FROM operations.likert_scores
   WHERE id = p_likert_score_id
     AND ((operations.has_role('USER') AND "userId" = operations.my_id()::text)
          OR operations.is_admin() OR runtime.is_trusted());
  RETURN FOUND;
END $$;

CREATE FUNCTION operations.delete_bonus_window(p_window_id uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Delete a bonus window: an admin may, and an operator.
BEGIN
  DELETE FROM operations.bonus_windows
   WHERE id = p_window_id AND (operations.is_admin() OR runtime.is_trusted());
  RETURN FOUND;
END $$;

CREATE FUNCTION operations.delete_setting(p_key text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Delete a setting, so that its default counts again: an admin may, and an operator.
BEGIN
  DELETE FROM operations.system_settings
   WHERE key = p_key AND (operations.is_admin() OR runtime.is_trusted());
  RETURN FOUND;
END $$;

REVOKE EXECUTE ON FUNCTION scoring.delete_profile, operations.delete_project, operations.delete_records,
  operations.delete_likert_score, operations.delete_bonus_window, operations.delete_setting FROM PUBLIC;
DO $$
DECLARE
  v_role text;
BEGIN
  FOREACH v_role IN ARRAY ARRAY['gristmill_service', 'gristmill_worker'] LOOP
    CONTINUE WHEN to_regrole(v_role) IS NULL;
    EXECUTE format('GRANT EXECUTE ON FUNCTION scoring.delete_profile, operations.delete_project, '
      'operations.delete_records, operations.delete_likert_score, operations.delete_bonus_window, '
      'operations.delete_setting TO %I', v_role);
  END LOOP;
  IF to_regrole('gristmill_service') IS NOT NULL THEN
    REVOKE DELETE ON scoring.profiles, operations.projects, operations.data_records, operations.likert_scores,
      operations.bonus_windows, operations.system_settings FROM gristmill_service;
  END IF;
END $$;
