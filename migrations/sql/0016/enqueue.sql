-- As revision 0005 made them, and: a repeated key means the same options; only who may change a project gives a key.

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
           CASE WHEN j.options <> '{}' THEN 'options' END,
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
  IF p_idempotency_key IS NOT NULL AND NOT (operations.may_change(p_project_id) OR runtime.is_trusted()) THEN
    RAISE EXCEPTION 'idempotency_key must be given by who may change the project, got %', quote_literal(left(p_idempotency_key, 80))
      USING ERRCODE = 'insufficient_privilege', HINT = 'enqueue without a key';
  END IF;
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
