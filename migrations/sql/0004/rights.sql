-- Row level security, by the seed's roles: PENDING sees nothing but itself; USER reads all and analyses, and owns
-- projects; ADMIN does everything. Nobody is asked of the tables' owner, nor of the workers.

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA operations FROM PUBLIC;

DO $$
DECLARE
  v_table text;
  v_reads constant text := '(SELECT operations.has_role(''USER''))';
  v_admin constant text := '(SELECT operations.is_admin())';
BEGIN
  FOR v_table IN SELECT relname FROM pg_class
                  WHERE relnamespace = 'operations'::regnamespace AND relkind = 'r' LOOP
    EXECUTE format('ALTER TABLE operations.%I ENABLE ROW LEVEL SECURITY', v_table);
    IF v_table NOT IN ('profiles', 'system_settings', 'upload_parts') THEN
      EXECUTE format('CREATE POLICY %I ON operations.%I FOR SELECT USING (%s)', v_table || '_read', v_table, v_reads);
    END IF;
    IF v_table IN ('data_records', 'uploads', 'ingest_jobs') THEN
      -- Not FOR ALL: it would be asked of every row that somebody reads, too.
      EXECUTE format('CREATE POLICY %I ON operations.%I FOR INSERT WITH CHECK (operations.may_change("projectId"))',
                     v_table || '_insert', v_table);
      EXECUTE format('CREATE POLICY %I ON operations.%I FOR UPDATE USING (operations.may_change("projectId"))',
                     v_table || '_update', v_table);
      EXECUTE format('CREATE POLICY %I ON operations.%I FOR DELETE USING (operations.may_change("projectId"))',
                     v_table || '_delete', v_table);
    ELSE
      EXECUTE format('CREATE POLICY %I ON operations.%I FOR ALL USING (%s)', v_table || '_admin', v_table, v_admin);
    END IF;
    IF to_regrole('gristmill_worker') IS NOT NULL THEN
      -- BYPASSRLS is not inherited by members of the role; a policy is.
      EXECUTE format('CREATE POLICY %I ON operations.%I FOR ALL TO gristmill_worker USING (true)',
                     v_table || '_workers', v_table);
    END IF;
  END LOOP;
END $$;

CREATE POLICY profiles_own ON operations.profiles FOR SELECT USING (id = (SELECT operations.my_id()));
CREATE POLICY projects_own ON operations.projects FOR ALL
  USING ("ownerId" = (SELECT operations.my_id()) AND (SELECT operations.has_role('USER')));
CREATE POLICY likert_scores_own ON operations.likert_scores FOR ALL
  USING ("userId" = (SELECT operations.my_id())::text AND (SELECT operations.has_role('USER')));
CREATE POLICY analytics_jobs_start ON operations.analytics_jobs FOR INSERT
  WITH CHECK ((SELECT operations.has_role('USER')));
CREATE POLICY analytics_jobs_change ON operations.analytics_jobs FOR UPDATE USING (operations.may_change("projectId"));
CREATE POLICY upload_parts_change ON operations.upload_parts FOR ALL
  USING (EXISTS (SELECT FROM operations.uploads AS u
                  WHERE u.id = "uploadId" AND operations.may_change(u."projectId")));

DO $$ BEGIN
  IF to_regrole('gristmill_service') IS NOT NULL THEN
    GRANT USAGE ON SCHEMA operations TO gristmill_service;
    GRANT SELECT ON ALL TABLES IN SCHEMA operations TO gristmill_service;
    GRANT INSERT, UPDATE, DELETE ON operations.projects, operations.data_records, operations.likert_scores,
      operations.bonus_windows, operations.system_settings TO gristmill_service;
    GRANT UPDATE ON operations.profiles TO gristmill_service;
    GRANT INSERT, UPDATE ON operations.ingest_jobs, operations.analytics_jobs TO gristmill_service;
    GRANT INSERT ON operations.uploads, operations.upload_parts TO gristmill_service;
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA operations TO gristmill_service;
    -- It writes profiles with its owner's rights: for the triggers alone.
    REVOKE EXECUTE ON FUNCTION operations.follow_user FROM gristmill_service;
  END IF;
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    GRANT USAGE ON SCHEMA operations TO gristmill_worker;
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA operations TO gristmill_worker;
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA operations TO gristmill_worker;
    REVOKE EXECUTE ON FUNCTION operations.follow_user FROM gristmill_worker;
  END IF;
END $$;
