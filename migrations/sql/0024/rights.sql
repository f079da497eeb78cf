-- Workers read prices, operators write them. Services and dispatchers have nothing here.

REVOKE ALL ON llm.prices FROM PUBLIC;
DO $$ BEGIN
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    GRANT USAGE ON SCHEMA llm TO gristmill_worker;
    GRANT SELECT ON llm.prices TO gristmill_worker;
  END IF;
  IF to_regrole('gristmill_operator') IS NOT NULL THEN
    GRANT INSERT, UPDATE, DELETE ON llm.prices TO gristmill_operator;
  END IF;
END $$;
