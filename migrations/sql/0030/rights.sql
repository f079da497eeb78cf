-- Services keep their own endpoints and read their own deliveries; nobody but workers and operators reads a secret, which
-- is encrypted with a key that the database has not.

REVOKE ALL ON notifications.endpoints, notifications.endpoint_changes FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION notifications.who, notifications.begin_endpoint, notifications.keep_endpoint,
  notifications.note_endpoint, notifications.begin_delivery, notifications.event_of, notifications.take, notifications.resend,
  notifications.ping, notifications.delete_endpoint FROM PUBLIC;
ALTER TABLE notifications.endpoints ENABLE ROW LEVEL SECURITY;
ALTER TABLE notifications.endpoint_changes ENABLE ROW LEVEL SECURITY;
CREATE POLICY endpoints_own ON notifications.endpoints USING (owner_id = (SELECT runtime.actor_id()))
  WITH CHECK (owner_id = (SELECT runtime.actor_id()) AND NOT every_owner);
CREATE POLICY endpoint_changes_own ON notifications.endpoint_changes FOR SELECT
  USING (owner_id = (SELECT runtime.actor_id()));
-- Deliveries are made by notices, not by services.
DROP POLICY deliveries_enqueue ON notifications.deliveries;

DO $$
DECLARE
  v_role text;
BEGIN
  FOREACH v_role IN ARRAY ARRAY['gristmill_service', 'gristmill_worker'] LOOP
    CONTINUE WHEN to_regrole(v_role) IS NULL;
    EXECUTE format('GRANT EXECUTE ON FUNCTION notifications.who, notifications.resend, notifications.ping, '
                   'notifications.delete_endpoint TO %I', v_role);
  END LOOP;
  IF to_regrole('gristmill_service') IS NOT NULL THEN
    GRANT SELECT (id, owner_id, every_owner, url, stages, previous_until, version, disabled_at, disabled_reason,
                  consecutive_failures, first_failure_at, created_at, created_by),
          INSERT (url, stages, secret),
          UPDATE (url, stages, secret, previous_until, disabled_at, disabled_reason)
      ON notifications.endpoints TO gristmill_service;
    GRANT SELECT ON notifications.endpoint_changes TO gristmill_service;
    EXECUTE (SELECT format('REVOKE INSERT (%s) ON notifications.deliveries FROM gristmill_service',
                           string_agg(quote_ident(attname), ', '))
               FROM pg_attribute
              WHERE attrelid = 'notifications.deliveries'::regclass AND attnum > 0 AND NOT attisdropped);
  END IF;
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    GRANT SELECT, INSERT, UPDATE, DELETE ON notifications.endpoints TO gristmill_worker;
    GRANT SELECT, DELETE ON notifications.endpoint_changes TO gristmill_worker;
    CREATE POLICY endpoints_workers ON notifications.endpoints TO gristmill_worker USING (true);
    CREATE POLICY endpoint_changes_workers ON notifications.endpoint_changes TO gristmill_worker USING (true);
  END IF;
END $$;
