-- Who acts: the user that a service speaks for. Everything that asks runs with its owner's rights, because the keys and
-- the bindings are for nobody else's eyes.

CREATE FUNCTION runtime.actor_signature(p_inner bytea, p_outer bytea, p_user_id uuid, p_expires bigint) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
-- HMAC-SHA-256 of what is signed, by the pads of a key (RFC 2104).
  SELECT sha256(p_outer || sha256(p_inner || convert_to(format('gristmill.actor:%s:%s', p_user_id, p_expires), 'UTF8')))
$$;

CREATE OR REPLACE FUNCTION runtime.is_trusted() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
  SET search_path = pg_catalog, pg_temp AS $$
  -- Whether the client is one of Gristmill's own processes, an operator, or the owner of the tables.
  SELECT coalesce(pg_has_role(runtime.caller_role(), to_regrole('gristmill_worker'), 'MEMBER'), false)
      OR coalesce(pg_has_role(runtime.caller_role(), to_regrole('gristmill_dispatcher'), 'MEMBER'), false)
      OR pg_has_role(runtime.caller_role(), (SELECT nspowner FROM pg_namespace WHERE nspname = 'runtime'), 'MEMBER')
$$;

CREATE FUNCTION runtime.check_actor_signature(p_user_id uuid, p_signature text) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Return if one of the valid keys signed this user until a time that has not come, else raise.
DECLARE
  v_expires bigint;
  v_given bytea;
BEGIN
  IF nullif(p_signature, '') IS NULL THEN
    RAISE EXCEPTION 'gristmill.user_id needs gristmill.user_signature in strict mode, got none for user %', p_user_id
      USING ERRCODE = 'invalid_authorization_specification';
  ELSIF p_signature !~ '^\d{1,11}\.[0-9a-f]{64}$' THEN
    RAISE EXCEPTION 'gristmill.user_signature must be EXPIRES.HEX (seconds since 1970, HMAC-SHA-256), got % characters',
      length(p_signature) USING ERRCODE = 'invalid_authorization_specification';
  END IF;
  v_expires := split_part(p_signature, '.', 1)::bigint;
  v_given := decode(split_part(p_signature, '.', 2), 'hex');
  IF v_expires <= extract(epoch FROM clock_timestamp()) THEN
    RAISE EXCEPTION 'gristmill.user_signature of user % expired at %', p_user_id, to_timestamp(v_expires)
      USING ERRCODE = 'invalid_authorization_specification';
  ELSIF v_expires > extract(epoch FROM clock_timestamp() + interval '1 day') THEN
    RAISE EXCEPTION 'gristmill.user_signature must expire within a day, got %', to_timestamp(v_expires)
      USING ERRCODE = 'invalid_authorization_specification';
  END IF;
  -- Hashed once more, so that how long the comparison takes tells nothing of the signature that would fit.
  PERFORM FROM runtime.actor_keys AS k
    WHERE coalesce(k.expires_at, 'infinity') > clock_timestamp()
      AND sha256(runtime.actor_signature(k.inner_pad, k.outer_pad, p_user_id, v_expires)) = sha256(v_given);
  IF NOT FOUND THEN
    RAISE EXCEPTION 'gristmill.user_signature is not one of user %: no valid key made it', p_user_id
      USING ERRCODE = 'invalid_authorization_specification';
  END IF;
END $$;

CREATE FUNCTION runtime.choose_actor_id() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $choose$
-- Make runtime.actor_id() as it has to be now. Defaults ask it for every new row: where nothing is to be verified, it
-- looks nothing up.
BEGIN
  IF EXISTS (SELECT FROM runtime.security WHERE strict) OR EXISTS (SELECT FROM runtime.role_actors) THEN
    EXECUTE $sql$
CREATE OR REPLACE FUNCTION runtime.actor_id() RETURNS uuid
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $actor$
-- The user who acts: the one that the login role is bound to, else gristmill.user_id, which in strict mode must be
-- signed. NULL where nobody is named; what is named wrongly raises.
DECLARE
  v_said text := nullif(current_setting('gristmill.user_id', true), '');
  v_signature text := current_setting('gristmill.user_signature', true);
  v_actor uuid;
  v_strict boolean;
BEGIN
  SELECT (SELECT user_id FROM runtime.role_actors WHERE role_name = session_user),
         (SELECT strict FROM runtime.security WHERE id = 1) INTO v_actor, v_strict;
  IF v_actor IS NOT NULL OR v_said IS NULL THEN RETURN v_actor; END IF;
  IF NOT pg_input_is_valid(v_said, 'uuid') THEN
    RAISE EXCEPTION 'gristmill.user_id must be a UUID, got %', quote_literal(left(v_said, 50))
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  v_actor := v_said::uuid;
  IF v_strict AND (nullif(v_signature, '') IS NOT NULL OR NOT runtime.is_trusted()) THEN
    PERFORM runtime.check_actor_signature(v_actor, v_signature);
  END IF;
  RETURN v_actor;
END $actor$
    $sql$;
  ELSE
    EXECUTE $sql$
CREATE OR REPLACE FUNCTION runtime.actor_id() RETURNS uuid
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $actor$
-- The user who acts, as gristmill.user_id says: strict mode is off, and no login is bound to a user.
DECLARE
  v_said text := nullif(current_setting('gristmill.user_id', true), '');
BEGIN
  IF v_said IS NULL THEN RETURN NULL; END IF;
  IF NOT pg_input_is_valid(v_said, 'uuid') THEN
    RAISE EXCEPTION 'gristmill.user_id must be a UUID, got %', quote_literal(left(v_said, 50))
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  RETURN v_said::uuid;
END $actor$
    $sql$;
  END IF;
  RETURN NULL;
END $choose$;

CREATE TRIGGER choose_actor_id AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON runtime.security
  FOR EACH STATEMENT EXECUTE FUNCTION runtime.choose_actor_id();
CREATE TRIGGER choose_actor_id AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON runtime.role_actors
  FOR EACH STATEMENT EXECUTE FUNCTION runtime.choose_actor_id();
DELETE FROM runtime.security;

REVOKE EXECUTE ON FUNCTION runtime.actor_signature, runtime.check_actor_signature,
  runtime.choose_actor_id, runtime.actor_id FROM PUBLIC;
