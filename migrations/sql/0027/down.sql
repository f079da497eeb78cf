-- What the revisions before had of keys and trust.

DROP FUNCTION runtime.authenticate_keys(bytea[]), runtime.roles_of_users(uuid[]), runtime.note_key_use(uuid[]),
  runtime.sign_actor(uuid, integer);
DROP TABLE runtime.api_keys;
DROP FUNCTION runtime.begin_api_key(), runtime.keep_api_key();

CREATE OR REPLACE FUNCTION runtime.caller_role() RETURNS name LANGUAGE sql STABLE PARALLEL SAFE
  SET search_path = pg_catalog, pg_temp AS $$
  -- The role that the client has, also within a function that runs with its owner's rights.
  SELECT coalesce(nullif(current_setting('role', true), 'none'), session_user)::name
$$;

CREATE OR REPLACE FUNCTION runtime.is_trusted() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
  SET search_path = pg_catalog, pg_temp AS $$
  -- Whether the client is one of Gristmill's own processes, an operator, or the owner of the tables.
  SELECT coalesce(pg_has_role(runtime.caller_role(), to_regrole('gristmill_worker'), 'MEMBER'), false)
      OR coalesce(pg_has_role(runtime.caller_role(), to_regrole('gristmill_dispatcher'), 'MEMBER'), false)
      OR pg_has_role(runtime.caller_role(), (SELECT nspowner FROM pg_namespace WHERE nspname = 'runtime'), 'MEMBER')
$$;

CREATE OR REPLACE FUNCTION operations.looks_secret(p_text text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN p_text ~ ('(^|[^A-Za-z0-9])([sp]k-|[spr]k_|gsk_|xai-|hf_|nvapi-|AIza|AQ\.|gh[opsur]_|github_pat_|glpat-|xox[abprs]-'
                 || '|AKIA|eyJ)[A-Za-z0-9_-]{8,}')
    OR p_text ~ '^([0-9a-f]{32,}|[0-9A-F]{32,})$';
