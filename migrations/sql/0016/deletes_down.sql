DROP FUNCTION scoring.delete_profile, operations.delete_project, operations.delete_records,
  operations.delete_likert_score, operations.delete_bonus_window, operations.delete_setting;
DO $$ BEGIN
  IF to_regrole('gristmill_service') IS NOT NULL THEN
    GRANT DELETE ON scoring.profiles, operations.projects, operations.data_records, operations.likert_scores,
      operations.bonus_windows, operations.system_settings TO gristmill_service;
  END IF;
END $$;
