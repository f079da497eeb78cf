-- Who calls the gateway. These functions run with the rights of their owner: the gateway reads no table of keys or users.

CREATE FUNCTION runtime.begin_api_key() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$
-- Write who made a key, whatever the statement says, and refuse a key that acts for a user who does not exist.
BEGIN
  IF TG_RELID <> 'runtime.api_keys'::regclass THEN
    RAISE EXCEPTION '% is for runtime.api_keys, not for %', TG_NAME, TG_RELID::regclass
      USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF NEW.acts_for IS NOT NULL AND NOT EXISTS (SELECT FROM auth.users AS u WHERE u.id = NEW.acts_for) THEN
    RAISE EXCEPTION 'acts_for must be the id of a user, got %', NEW.acts_for USING ERRCODE = 'foreign_key_violation';
  END IF;
  NEW.created_at := now();
  NEW.created_by := coalesce(left(nullif(current_setting('gristmill.changed_by', true), ''), 255), session_user);
  NEW.last_used_at := NULL;
  NEW.revoked_at := NULL;
  NEW.revoked_by := NULL;
  NEW.revoke_reason := NULL;
  RETURN NEW;
END $$;
CREATE TRIGGER begin_api_key BEFORE INSERT ON runtime.api_keys
  FOR EACH ROW EXECUTE FUNCTION runtime.begin_api_key();

CREATE FUNCTION runtime.keep_api_key() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- A key never changes: it is used, and once it is revoked. Write who revoked it, whatever the statement says.
BEGIN
  IF (to_jsonb(NEW) - '{last_used_at,revoked_at,revoked_by,revoke_reason}'::text[])
     IS DISTINCT FROM (to_jsonb(OLD) - '{last_used_at,revoked_at,revoked_by,revoke_reason}'::text[]) THEN
    RAISE EXCEPTION 'a key does not change, only last_used_at and revoked_at do: make another key'
      USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  IF OLD.revoked_at IS NOT NULL THEN
    IF (NEW.revoked_at, NEW.revoked_by, NEW.revoke_reason)
       IS DISTINCT FROM (OLD.revoked_at, OLD.revoked_by, OLD.revoke_reason) THEN
      RAISE EXCEPTION 'key % was revoked at %, and stays revoked', OLD.name, OLD.revoked_at
        USING ERRCODE = 'integrity_constraint_violation';
    END IF;
  ELSIF NEW.revoked_at IS NOT NULL THEN
    NEW.revoked_at := clock_timestamp();
    NEW.revoked_by := coalesce(left(nullif(current_setting('gristmill.changed_by', true), ''), 255), session_user);
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER keep_api_key BEFORE UPDATE ON runtime.api_keys
  FOR EACH ROW EXECUTE FUNCTION runtime.keep_api_key();

CREATE FUNCTION runtime.sign_actor(p_user_id uuid, p_seconds integer) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- The value of gristmill.user_signature for this user, by the newest valid key of strict mode; null if there is none.
-- For the functions of this schema alone: whoever calls it can be any user.
  SELECT e.at || '.' || encode(runtime.actor_signature(k.inner_pad, k.outer_pad, p_user_id, e.at), 'hex')
    FROM runtime.actor_keys AS k,
         (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint + p_seconds AS at) AS e
   WHERE coalesce(k.expires_at, 'infinity') > clock_timestamp()
   ORDER BY k.id DESC LIMIT 1
$$;

CREATE FUNCTION runtime.authenticate_keys(p_hashes bytea[])
RETURNS TABLE (key_hash bytea, id uuid, name text, scopes text[], acts_for uuid, signature text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- The valid keys among these hashes: not revoked, not expired, and their user, if they have one, exists. In strict mode
-- with the signature of that user, valid for ten minutes, so that the gateway needs no key to sign with.
  SELECT k.key_hash, k.id, k.name::text, k.scopes, k.acts_for,
         CASE WHEN k.acts_for IS NOT NULL AND EXISTS (SELECT FROM runtime.security AS s WHERE s.strict)
              THEN runtime.sign_actor(k.acts_for, 600) END
    FROM runtime.api_keys AS k
   WHERE k.key_hash = ANY (p_hashes) AND k.revoked_at IS NULL
     AND coalesce(k.expires_at, 'infinity') > clock_timestamp()
     AND (k.acts_for IS NULL OR EXISTS (SELECT FROM auth.users AS u WHERE u.id = k.acts_for))
$$;

CREATE FUNCTION runtime.roles_of_users(p_ids uuid[]) RETURNS TABLE (id uuid, role text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- The role in operations.profiles of each of these users who exists.
  SELECT u.id, p.role::text FROM auth.users AS u JOIN operations.profiles AS p ON p.id = u.id WHERE u.id = ANY (p_ids)
$$;

CREATE FUNCTION runtime.note_key_use(p_ids uuid[]) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Write that these keys were used now, at most once a minute each. A row that somebody else holds is left out.
  UPDATE runtime.api_keys AS k SET last_used_at = now()
    FROM (SELECT u.id FROM runtime.api_keys AS u
           WHERE u.id = ANY (p_ids) AND coalesce(u.last_used_at, '-infinity') < now() - interval '50 seconds'
             FOR NO KEY UPDATE SKIP LOCKED) AS used
   WHERE k.id = used.id
$$;

CREATE OR REPLACE FUNCTION runtime.is_trusted() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
  SET search_path = pg_catalog, pg_temp AS $$
  -- Whether the client is one of Gristmill's own processes, an operator, or the owner of the tables: whether it has their
  -- rights. The gateway may become an operator, and until it does, it is none.
  SELECT coalesce(pg_has_role(runtime.caller_role(), to_regrole('gristmill_worker'), 'USAGE'), false)
      OR coalesce(pg_has_role(runtime.caller_role(), to_regrole('gristmill_dispatcher'), 'USAGE'), false)
      OR pg_has_role(runtime.caller_role(), (SELECT nspowner FROM pg_namespace WHERE nspname = 'runtime'), 'USAGE')
$$;

CREATE OR REPLACE FUNCTION runtime.caller_role() RETURNS name LANGUAGE sql STABLE PARALLEL SAFE
  SET search_path = pg_catalog, pg_temp AS $$
  -- The role that the client has, also within a function that runs with its owner's rights. For the gateway that acts as
  -- a service it is the gateway's own login: history shows it before the name of a key, and no service has that login.
  SELECT CASE WHEN current_setting('role', true) = 'gristmill_service' AND EXISTS (
                SELECT FROM pg_auth_members AS m
                 WHERE m.roleid = to_regrole('gristmill_gateway') AND m.member = to_regrole(quote_ident(session_user)))
              THEN session_user
              ELSE coalesce(nullif(current_setting('role', true), 'none'), session_user)::name END
$$;

-- Keys of this system and secrets of its callbacks are secrets too: as workers/runtime/secret_shapes.py.
CREATE OR REPLACE FUNCTION operations.looks_secret(p_text text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN p_text ~ ('(^|[^A-Za-z0-9])([sp]k-|[spr]k_|gsk_|xai-|hf_|nvapi-|AIza|AQ\.|gh[opsur]_|github_pat_|glpat-|xox[abprs]-'
                 || '|AKIA|gm_|whsec_|eyJ)[A-Za-z0-9_-]{8,}')
    OR p_text ~ '^([0-9a-f]{32,}|[0-9A-F]{32,})$';
