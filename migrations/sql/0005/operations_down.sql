DROP POLICY ingest_jobs_insert ON operations.ingest_jobs;
CREATE POLICY ingest_jobs_insert ON operations.ingest_jobs FOR INSERT WITH CHECK (operations.may_change("projectId"));

DO $$
DECLARE
  v_table text;
BEGIN
  FOR v_table IN SELECT c.relname FROM pg_constraint AS o JOIN pg_class AS c ON c.oid = o.conrelid
                  WHERE o.connamespace = 'operations'::regnamespace AND o.conname = 'ck_' || c.relname || '_sane_times' LOOP
    EXECUTE format('ALTER TABLE operations.%I DROP CONSTRAINT %I', v_table, 'ck_' || v_table || '_sane_times');
  END LOOP;
  IF to_regrole('gristmill_service') IS NOT NULL THEN
    REVOKE ALL ON ALL TABLES IN SCHEMA operations FROM gristmill_service;
    GRANT SELECT ON ALL TABLES IN SCHEMA operations TO gristmill_service;
    GRANT INSERT, UPDATE, DELETE ON operations.projects, operations.data_records, operations.likert_scores,
      operations.bonus_windows, operations.system_settings TO gristmill_service;
    GRANT UPDATE ON operations.profiles TO gristmill_service;
    GRANT INSERT, UPDATE ON operations.ingest_jobs, operations.analytics_jobs TO gristmill_service;
    GRANT INSERT ON operations.uploads, operations.upload_parts TO gristmill_service;
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA operations TO gristmill_service;
    REVOKE EXECUTE ON FUNCTION operations.follow_user FROM gristmill_service;
  END IF;
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA operations TO gristmill_worker;
    REVOKE EXECUTE ON FUNCTION operations.follow_user FROM gristmill_worker;
  END IF;
END $$;
