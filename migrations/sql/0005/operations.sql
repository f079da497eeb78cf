-- Functions by name, columns by name, keys by owner.

CREATE OR REPLACE FUNCTION operations.my_id() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
  SET search_path = pg_catalog, pg_temp AS $$ SELECT runtime.actor_id() $$;

CREATE OR REPLACE FUNCTION operations.follow_auth_user() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_RELID <> 'auth.users'::regclass THEN
    RAISE EXCEPTION '% follows auth.users, not %', TG_NAME, TG_RELID::regclass USING ERRCODE = 'insufficient_privilege';
  END IF;
  PERFORM operations.follow_user(NEW.id, NEW.email);
  RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION operations.enqueue_ingest(
  p_project_id uuid, p_type operations."RecordType", p_csv bytea, p_file_name text DEFAULT 'upload.csv',
  p_mapping jsonb DEFAULT '{}', p_priority integer DEFAULT 5, p_idempotency_key text DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Keep a file and enqueue its ingestion, in the caller's transaction. A key that the project's owner has used returns the
-- first job, if that was asked the same.
DECLARE
  v_job uuid;
  v_upload uuid;
  v_first record;
BEGIN
  IF num_nulls(p_project_id, p_type, p_csv, p_file_name) > 0 THEN
    RAISE EXCEPTION 'project, type, csv and file name must be given' USING ERRCODE = 'null_value_not_allowed';
  END IF;
  BEGIN
    -- The file first: a member of gristmill_service may not change a job, not even to tell it of its file.
    INSERT INTO operations.uploads ("projectId", "fileName", "sizeBytes", sha256)
    VALUES (p_project_id, left(p_file_name, 500), length(p_csv), sha256(p_csv)) RETURNING id INTO v_upload;
    INSERT INTO operations.upload_parts ("uploadId", "partNumber", content)
    SELECT v_upload, n, substring(p_csv FROM n * 1048576 + 1 FOR 1048576)
      FROM generate_series(0, (length(p_csv) - 1) / 1048576) AS n WHERE length(p_csv) > 0;
    INSERT INTO operations.ingest_jobs ("projectId", type, source, mapping, priority, idempotency_key, "uploadId",
                                        "contentHash")
    VALUES (p_project_id, p_type, 'csv:' || left(p_file_name, 500), coalesce(p_mapping, '{}'), coalesce(p_priority, 5),
            p_idempotency_key, v_upload, sha256(p_csv)) RETURNING id INTO v_job;
    RETURN v_job;
  EXCEPTION WHEN unique_violation THEN
    -- The block's rows are gone again, the file too.
    IF p_idempotency_key IS NULL THEN RAISE; END IF;
  END;
  SELECT j.id, array_remove(ARRAY[
           CASE WHEN j."projectId" <> p_project_id THEN 'project' END,
           CASE WHEN j.type <> p_type THEN 'type' END,
           CASE WHEN j.mapping <> coalesce(p_mapping, '{}') THEN 'mapping' END,
           CASE WHEN j."contentHash" <> sha256(p_csv) THEN 'content' END], NULL) AS differs
    INTO v_first FROM operations.ingest_jobs AS j
   WHERE j.idempotency_key = p_idempotency_key AND j.owner_id IS NOT DISTINCT FROM coalesce(
           (SELECT p."ownerId" FROM operations.projects AS p WHERE p.id = p_project_id), runtime.actor_id());
  PERFORM runtime.refuse_key(p_idempotency_key, v_first.id, v_first.differs);
  RETURN v_first.id;
END $$;

CREATE OR REPLACE FUNCTION operations.enqueue_analytics(
  p_project_id uuid, p_type operations."RecordType" DEFAULT NULL, p_model_name text DEFAULT NULL,
  p_priority integer DEFAULT 5, p_idempotency_key text DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Enqueue the analysis of a project (of one type of its records, if given), in the caller's transaction. A key that the
-- project's owner has used returns the first job, if that was asked the same.
DECLARE
  v_job uuid;
  v_first record;
BEGIN
  INSERT INTO operations.analytics_jobs ("projectId", type, "modelName", priority, idempotency_key)
  VALUES (p_project_id, p_type, p_model_name, coalesce(p_priority, 5), p_idempotency_key)
  ON CONFLICT (owner_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING RETURNING id INTO v_job;
  IF v_job IS NULL THEN
    SELECT j.id, array_remove(ARRAY[
             CASE WHEN j."projectId" <> p_project_id THEN 'project' END,
             CASE WHEN j.type IS DISTINCT FROM p_type THEN 'type' END,
             CASE WHEN j."modelName" IS DISTINCT FROM p_model_name THEN 'model' END], NULL) AS differs
      INTO v_first FROM operations.analytics_jobs AS j
     WHERE j.idempotency_key = p_idempotency_key AND j.owner_id IS NOT DISTINCT FROM coalesce(
             (SELECT p."ownerId" FROM operations.projects AS p WHERE p.id = p_project_id), runtime.actor_id());
    PERFORM runtime.refuse_key(p_idempotency_key, v_first.id, v_first.differs);
    v_job := v_first.id;
  END IF;
  RETURN v_job;
END $$;

-- A job reads a file of its own project: whoever may read the list of another's files does not get their content.
DROP POLICY ingest_jobs_insert ON operations.ingest_jobs;
CREATE POLICY ingest_jobs_insert ON operations.ingest_jobs FOR INSERT WITH CHECK (
  operations.may_change("projectId") AND ("uploadId" IS NULL OR EXISTS (
    SELECT FROM operations.uploads AS u WHERE u.id = "uploadId" AND u."projectId" = ingest_jobs."projectId")));

DO $$
DECLARE
  v_times text;
  v_table record;
BEGIN
  -- Every time of every table that the handlers read: finite, and a day away from the ends that Python knows.
  FOR v_table IN
    SELECT c.oid::regclass AS name, c.relname,
           array_agg(format('%I', a.attname) ORDER BY a.attnum) AS times
      FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
     WHERE c.relnamespace = 'operations'::regnamespace AND c.relkind = 'r' AND a.atttypid = 'timestamptz'::regtype
       AND a.attnum > 0 AND NOT a.attisdropped AND c.relname NOT IN ('ingest_jobs', 'analytics_jobs')
     GROUP BY c.oid, c.relname
  LOOP
    SELECT string_agg(format('(%s BETWEEN ''0001-01-02 00:00:00+00'' AND ''9999-12-31 00:00:00+00'')', t), ' AND ')
      INTO v_times FROM unnest(v_table.times) AS t;
    EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I CHECK (%s) NOT VALID', v_table.name,
                   'ck_' || v_table.relname || '_sane_times', v_times);
  END LOOP;
END $$;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA operations FROM PUBLIC;
DO $$
DECLARE
  v_role text;
BEGIN
  FOREACH v_role IN ARRAY ARRAY['gristmill_service', 'gristmill_worker'] LOOP
    CONTINUE WHEN to_regrole(v_role) IS NULL;
    EXECUTE format('REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA operations FROM %I', v_role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION operations.my_id, operations.my_role, operations.has_role, operations.is_admin, '
      'operations.may_change, operations.hold_project, operations.enqueue_ingest, operations.enqueue_analytics, '
      'operations.bonus_standings, operations.cosine_distance, operations.pgvector_schema, operations.embedding_index, '
      'operations.content_hash, operations.owner_of_ingest_jobs, operations.owner_of_analytics_jobs TO %I', v_role);
  END LOOP;
  IF to_regrole('gristmill_service') IS NOT NULL THEN
    REVOKE INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA operations FROM gristmill_service;
    GRANT DELETE ON operations.projects, operations.data_records, operations.likert_scores, operations.bonus_windows,
      operations.system_settings TO gristmill_service;
    GRANT INSERT (name, "ownerId", guidelines, "guidelinesFileName"), UPDATE (name, guidelines, "guidelinesFileName")
      ON operations.projects TO gristmill_service;
    -- Vectors, analyses and where a record came from are the workers' to write.
    GRANT INSERT ("projectId", type, category, source, content, metadata, "createdById", "createdByName", "createdByEmail"),
          UPDATE (type, category, content, metadata, "hasBeenReviewed", "isCategoryCorrect", "reviewedBy")
      ON operations.data_records TO gristmill_service;
    GRANT INSERT ("recordId", "userId", "realismScore", "qualityScore"), UPDATE ("realismScore", "qualityScore")
      ON operations.likert_scores TO gristmill_service;
    GRANT INSERT (name, "startTime", "endTime", "targetTaskCount", "targetFeedbackCount", "targetTaskCountTier2",
                  "targetFeedbackCountTier2", "createdBy"),
          UPDATE (name, "startTime", "endTime", "targetTaskCount", "targetFeedbackCount", "targetTaskCountTier2",
                  "targetFeedbackCountTier2") ON operations.bonus_windows TO gristmill_service;
    GRANT INSERT (key, value, description), UPDATE (value, description) ON operations.system_settings TO gristmill_service;
    GRANT UPDATE (role, "mustResetPassword") ON operations.profiles TO gristmill_service;
    GRANT INSERT ("projectId", type, source, mapping, priority, idempotency_key, due_at, "uploadId", "contentHash")
      ON operations.ingest_jobs TO gristmill_service;
    GRANT INSERT ("projectId", type, "modelName", priority, idempotency_key, due_at)
      ON operations.analytics_jobs TO gristmill_service;
    GRANT INSERT ("projectId", "fileName", "sizeBytes", sha256) ON operations.uploads TO gristmill_service;
    GRANT INSERT ("uploadId", "partNumber", content) ON operations.upload_parts TO gristmill_service;
  END IF;
END $$;
