-- A setting has one spelling, a host is a plain address, and nothing that looks like a secret is kept in the clear.

CREATE FUNCTION operations.looks_secret(p_text text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN p_text ~ ('(^|[^A-Za-z0-9])([sp]k-|[spr]k_|gsk_|xai-|hf_|nvapi-|AIza|AQ\.|gh[opsur]_|github_pat_|glpat-|xox[abprs]-'
                 || '|AKIA|eyJ)[A-Za-z0-9_-]{8,}')
    OR p_text ~ '^([0-9a-f]{32,}|[0-9A-F]{32,})$';
-- The same prefixes are in workers/operations/secret_shapes.py, which also finds tokens that look random.

-- No release ever read these: somebody's key under a misspelt name, in the clear.
DELETE FROM operations.system_settings
 WHERE key NOT IN ('ai_provider', 'ai_host', 'llm_model', 'embedding_model', 'openrouter_key', 'openai_key')
   AND (key ~* 'key|secret|token|passw' OR operations.looks_secret(value));

-- Not valid: what an older release accepted goes on, `gristmill doctor` tells of it, and no change of it is accepted.
ALTER TABLE operations.system_settings
  DROP CONSTRAINT ck_system_settings_value,
  ADD CONSTRAINT ck_system_settings_key CHECK (
    key IN ('ai_provider', 'ai_host', 'llm_model', 'embedding_model', 'openrouter_key', 'openai_key')) NOT VALID,
  ADD CONSTRAINT ck_system_settings_value CHECK (CASE
    WHEN key = 'ai_provider' THEN value IN ('lmstudio', 'openrouter', 'openai', 'offline')
    WHEN key = 'ai_host' THEN length(value) <= 2000 AND NOT operations.looks_secret(value)
      AND value ~ '^https?://([A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[!-~]*)?$'
      AND value !~ '[?#@\\"<>]'
    WHEN key IN ('openrouter_key', 'openai_key') THEN value ~ '^gAAAA[A-Za-z0-9_-]{90,}={0,2}$'
    WHEN key IN ('llm_model', 'embedding_model') THEN NOT operations.looks_secret(value)
      AND value ~ '^[A-Za-z0-9][A-Za-z0-9_./@+-]*([:][A-Za-z0-9_./@+-]*)*$' AND length(value) <= 255
    ELSE false END) NOT VALID,
  ADD CONSTRAINT ck_system_settings_description CHECK (NOT operations.looks_secret(description)) NOT VALID;
