-- What the system settings choose, for a login that may not read their keys.

CREATE FUNCTION llm.chosen_provider()
RETURNS TABLE (provider text, base_url text, llm_model text, embedding_model text, key_changed_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- One row: the provider, address and models that are set, NULL for what is not set, and when the provider, its address
-- or its key was last changed. No key. An address that an older release kept and that looks like a secret is left out.
  SELECT max(s.value) FILTER (WHERE s.key = 'ai_provider'),
         max(s.value) FILTER (WHERE s.key = 'ai_host' AND NOT operations.looks_secret(s.value)),
         max(s.value) FILTER (WHERE s.key = 'llm_model' AND NOT operations.looks_secret(s.value)),
         max(s.value) FILTER (WHERE s.key = 'embedding_model' AND NOT operations.looks_secret(s.value)),
         max(s."updatedAt") FILTER (WHERE s.key NOT IN ('llm_model', 'embedding_model'))
    FROM operations.system_settings AS s
$$;
