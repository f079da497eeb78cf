-- Who asks, as `SET LOCAL gristmill.user_id` says, and what that person may do. They run with their owner's rights:
-- a policy on `profiles` that read `profiles` as its caller would never end.

CREATE FUNCTION operations.my_id() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
  SET search_path = pg_catalog, pg_temp AS $$ SELECT nullif(current_setting('gristmill.user_id', true), '')::uuid $$;

CREATE FUNCTION operations.my_role() RETURNS operations."UserRole" LANGUAGE sql STABLE SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$ SELECT role FROM operations.profiles WHERE id = operations.my_id() $$;

CREATE FUNCTION operations.has_role(p_least operations."UserRole") RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$ SELECT coalesce(operations.my_role() >= p_least, false) $$;

CREATE FUNCTION operations.is_admin() RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$ SELECT operations.has_role('ADMIN') $$;

CREATE FUNCTION operations.may_change(p_project_id uuid) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$
  SELECT operations.is_admin() OR (operations.has_role('USER') AND EXISTS (
    SELECT FROM operations.projects WHERE id = p_project_id AND "ownerId" = operations.my_id()))
$$;

CREATE FUNCTION operations.hold_project(p_project_id uuid) RETURNS boolean LANGUAGE plpgsql
  SET search_path = pg_catalog, pg_temp AS $$
-- Keep a project there until this transaction ends; false where it is gone or somebody is about to delete it. For whoever
-- holds a job's row already: the deleter holds the project's row and waits for the job's, so that to wait here would be a
-- deadlock, and the victim could be the delete.
BEGIN
  PERFORM FROM operations.projects WHERE id = p_project_id FOR KEY SHARE SKIP LOCKED;
  RETURN FOUND;
END $$;

-- Triggers: a profile for each new user, PENDING until an admin approves; the time of the last change.

CREATE FUNCTION operations.follow_user(p_id uuid, p_email text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$
-- Give a user a profile, or its profile the user's address. Whoever has none (Supabase: by telephone, anonymous), or one
-- that another user has (by single sign-on), signs in all the same: the id stands for it.
BEGIN
  INSERT INTO operations.profiles AS p (id, email) VALUES (p_id, coalesce(p_email, p_id::text))
  ON CONFLICT (id) DO UPDATE SET email = excluded.email WHERE p.email <> excluded.email;
EXCEPTION WHEN unique_violation THEN
  INSERT INTO operations.profiles (id, email) VALUES (p_id, p_id::text) ON CONFLICT (id) DO UPDATE SET email = excluded.email;
END $$;

CREATE FUNCTION operations.follow_auth_user() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM operations.follow_user(NEW.id, NEW.email);
  RETURN NULL;
END $$;
CREATE TRIGGER gristmill_user_created AFTER INSERT ON auth.users
  FOR EACH ROW EXECUTE FUNCTION operations.follow_auth_user();
CREATE TRIGGER gristmill_user_renamed AFTER UPDATE OF email ON auth.users
  FOR EACH ROW WHEN (OLD.email IS DISTINCT FROM NEW.email) EXECUTE FUNCTION operations.follow_auth_user();

-- Those who were there before.
SELECT operations.follow_user(id, email) FROM auth.users ORDER BY id;

CREATE FUNCTION operations.keep_awaited() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- A file whose job has not ended stays, however old; with its project it goes.
BEGIN
  IF EXISTS (SELECT FROM operations.ingest_jobs WHERE "uploadId" = OLD.id AND completed_at IS NULL)
     AND EXISTS (SELECT FROM operations.projects WHERE id = OLD."projectId") THEN
    RETURN NULL;
  END IF;
  RETURN OLD;
END $$;
CREATE TRIGGER keep_awaited BEFORE DELETE ON operations.uploads
  FOR EACH ROW EXECUTE FUNCTION operations.keep_awaited();

CREATE FUNCTION operations.touch() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  NEW."updatedAt" := now();
  RETURN NEW;
END $$;
DO $$
DECLARE
  v_table text;
BEGIN
  FOREACH v_table IN ARRAY ARRAY['profiles', 'projects', 'data_records', 'likert_scores', 'system_settings',
                                 'bonus_windows'] LOOP
    EXECUTE format('CREATE TRIGGER touch BEFORE UPDATE ON operations.%I FOR EACH ROW EXECUTE FUNCTION operations.touch()',
                   v_table);
  END LOOP;
END $$;

-- The doors of services that enqueue in their own transaction.

CREATE FUNCTION operations.enqueue_ingest(
  p_project_id uuid, p_type operations."RecordType", p_csv bytea, p_file_name text DEFAULT 'upload.csv',
  p_mapping jsonb DEFAULT '{}', p_priority integer DEFAULT 5, p_idempotency_key text DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Keep a CSV and enqueue its ingestion, in the caller's transaction; a repeated key returns the first job.
DECLARE
  v_job uuid;
  v_upload uuid;
BEGIN
  IF num_nulls(p_project_id, p_type, p_csv, p_file_name) > 0 THEN
    RAISE EXCEPTION 'project, type, csv and file name must be given' USING ERRCODE = 'null_value_not_allowed';
  END IF;
  INSERT INTO operations.ingest_jobs ("projectId", type, source, mapping, priority, idempotency_key)
  VALUES (p_project_id, p_type, 'csv:' || left(p_file_name, 500), coalesce(p_mapping, '{}'), coalesce(p_priority, 5),
          p_idempotency_key)
  ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING RETURNING id INTO v_job;
  IF v_job IS NULL THEN
    SELECT id INTO STRICT v_job FROM operations.ingest_jobs WHERE idempotency_key = p_idempotency_key;
    RETURN v_job;
  END IF;
  INSERT INTO operations.uploads ("projectId", "fileName", "sizeBytes", sha256)
  VALUES (p_project_id, left(p_file_name, 500), length(p_csv), sha256(p_csv)) RETURNING id INTO v_upload;
  INSERT INTO operations.upload_parts ("uploadId", "partNumber", content)
  SELECT v_upload, n, substring(p_csv FROM n * 1048576 + 1 FOR 1048576)
    FROM generate_series(0, (length(p_csv) - 1) / 1048576) AS n WHERE length(p_csv) > 0;
  UPDATE operations.ingest_jobs SET "uploadId" = v_upload WHERE id = v_job;
  RETURN v_job;
END $$;

CREATE FUNCTION operations.enqueue_analytics(
  p_project_id uuid, p_type operations."RecordType" DEFAULT NULL, p_model_name text DEFAULT NULL,
  p_priority integer DEFAULT 5, p_idempotency_key text DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Enqueue the analysis of a project (of one type of its records, if given), in the caller's transaction.
DECLARE
  v_job uuid;
BEGIN
  INSERT INTO operations.analytics_jobs ("projectId", type, "modelName", priority, idempotency_key)
  VALUES (p_project_id, p_type, p_model_name, coalesce(p_priority, 5), p_idempotency_key)
  ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING RETURNING id INTO v_job;
  IF v_job IS NULL THEN
    SELECT id INTO STRICT v_job FROM operations.analytics_jobs WHERE idempotency_key = p_idempotency_key;
  END IF;
  RETURN v_job;
END $$;

CREATE FUNCTION operations.bonus_standings(p_window_id uuid DEFAULT NULL, p_at timestamptz DEFAULT now())
RETURNS TABLE (window_id uuid, window_name varchar, creator_id varchar, creator_name varchar, creator_email varchar,
               task_count bigint, feedback_count bigint, tier integer)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
-- Who earned what in one window, or in each that is open at that time: records created from its start up to, not at,
-- its end, per creator. A tier needs all of its targets; one of 0 is none; with two of 0 nobody reaches it.
  SELECT w.id, w.name, c.id, c.name, c.email, c.tasks, c.feedback,
         CASE WHEN greatest(w."targetTaskCountTier2", w."targetFeedbackCountTier2") > 0
                   AND c.tasks >= w."targetTaskCountTier2" AND c.feedback >= w."targetFeedbackCountTier2" THEN 2
              WHEN greatest(w."targetTaskCount", w."targetFeedbackCount") > 0
                   AND c.tasks >= w."targetTaskCount" AND c.feedback >= w."targetFeedbackCount" THEN 1
              ELSE 0 END
    FROM operations.bonus_windows AS w
   CROSS JOIN LATERAL (
     SELECT r."createdById" AS id, max(r."createdByName") AS name, max(r."createdByEmail") AS email,
            count(*) FILTER (WHERE r.type = 'TASK') AS tasks, count(*) FILTER (WHERE r.type = 'FEEDBACK') AS feedback
       FROM operations.data_records AS r
      WHERE r."createdAt" >= w."startTime" AND r."createdAt" < w."endTime" AND r."createdById" IS NOT NULL
      GROUP BY r."createdById") AS c
   WHERE CASE WHEN p_window_id IS NULL THEN w."startTime" <= p_at AND p_at < w."endTime" ELSE w.id = p_window_id END
   ORDER BY w."startTime", w.id, 8 DESC, c.tasks + c.feedback DESC, c.id
$$;
