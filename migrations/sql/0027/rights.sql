-- Operators make and revoke keys, and read no hash. The gateway finds the keys of its callers by functions.

REVOKE EXECUTE ON FUNCTION runtime.begin_api_key, runtime.keep_api_key, runtime.sign_actor, runtime.authenticate_keys,
  runtime.roles_of_users, runtime.note_key_use FROM PUBLIC;

DO $$ BEGIN
  IF to_regrole('gristmill_operator') IS NOT NULL THEN
    GRANT SELECT (id, name, hint, scopes, acts_for, created_at, created_by, expires_at, last_used_at, revoked_at,
                  revoked_by, revoke_reason),
          INSERT (name, key_hash, hint, scopes, acts_for, expires_at),
          UPDATE (revoked_at, revoke_reason) ON runtime.api_keys TO gristmill_operator;
    CREATE POLICY api_keys_operators ON runtime.api_keys FOR ALL TO gristmill_operator USING (true);
  END IF;
  IF to_regrole('gristmill_gateway') IS NOT NULL THEN
    GRANT EXECUTE ON FUNCTION runtime.authenticate_keys, runtime.roles_of_users, runtime.note_key_use
      TO gristmill_gateway;
  END IF;
END $$;

DO $$
DECLARE
  v_group record;
BEGIN
  -- Memberships belong to the whole server: where another database's migration has set them, there is nothing to do. Each
  -- grantor has its own, and the most generous one counts.
  FOR v_group IN
    SELECT v.*, m.grantor FROM (VALUES ('gristmill_service', 'gristmill_gateway', false, true),
                                       ('gristmill_operator', 'gristmill_gateway', false, true),
                                       ('gristmill_worker', 'gristmill_operator', true, false))
                                 AS v (role, member, inherits, becomes)
      LEFT JOIN pg_auth_members AS m ON m.roleid = to_regrole(v.role) AND m.member = to_regrole(v.member)
     WHERE to_regrole(v.role) IS NOT NULL AND to_regrole(v.member) IS NOT NULL
       AND (m.inherit_option, m.set_option) IS DISTINCT FROM (v.inherits, v.becomes)
  LOOP
    EXECUTE format('GRANT %I TO %I WITH INHERIT %s, SET %s', v_group.role, v_group.member, v_group.inherits::text,
                   v_group.becomes::text)
         || coalesce(' GRANTED BY ' || quote_ident(pg_get_userbyid(v_group.grantor)), '');
  END LOOP;
EXCEPTION
  WHEN insufficient_privilege THEN
    RAISE NOTICE 'memberships of gristmill_gateway and gristmill_operator were not changed: run gristmill migrate as an administrator';
END $$;
