-- Workers read, operators write. Dispatchers read where calls go, and neither addresses nor keys. Services have nothing.

REVOKE ALL ON llm.providers, llm.routes, llm.route_steps, llm.route_bindings FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION llm.is_base_url FROM PUBLIC;
DO $$ BEGIN
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    GRANT USAGE ON SCHEMA llm TO gristmill_worker;
    GRANT SELECT ON llm.providers, llm.routes, llm.route_steps, llm.route_bindings TO gristmill_worker;
  END IF;
  IF to_regrole('gristmill_dispatcher') IS NOT NULL THEN
    GRANT USAGE ON SCHEMA llm TO gristmill_dispatcher;
    GRANT SELECT (name, kind, paused_at, paused_reason) ON llm.providers TO gristmill_dispatcher;
    GRANT SELECT ON llm.routes, llm.route_steps, llm.route_bindings TO gristmill_dispatcher;
  END IF;
  IF to_regrole('gristmill_operator') IS NOT NULL THEN
    GRANT USAGE ON SCHEMA llm TO gristmill_operator;
    GRANT INSERT, UPDATE, DELETE ON llm.providers, llm.routes, llm.route_steps, llm.route_bindings TO gristmill_operator;
    GRANT EXECUTE ON FUNCTION llm.is_base_url TO gristmill_operator;
  END IF;
END $$;
