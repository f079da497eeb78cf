-- Dispatchers read where the calls of a provider go, and when its row was changed. Never a key.

REVOKE EXECUTE ON FUNCTION llm.chosen_provider() FROM PUBLIC;
DO $$ BEGIN
  IF to_regrole('gristmill_dispatcher') IS NOT NULL THEN
    GRANT SELECT (base_url, updated_at) ON llm.providers TO gristmill_dispatcher;
    GRANT EXECUTE ON FUNCTION llm.chosen_provider() TO gristmill_dispatcher;
  END IF;
END $$;
