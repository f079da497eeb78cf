-- What 0019 made. The schema stays if another revision has something in it.

DROP TABLE llm.route_bindings, llm.route_steps, llm.routes, llm.providers;
DROP FUNCTION llm.is_base_url;
DO $$ BEGIN
  DROP SCHEMA llm;
EXCEPTION WHEN dependent_objects_still_exist THEN NULL;
END $$;
