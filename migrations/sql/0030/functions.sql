-- What keeps endpoints, turns notices into deliveries, and what services call.

CREATE FUNCTION notifications.who() RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
-- Who changes an endpoint: the name that the session gives, after the login of whoever is not trusted.
  SELECT left(CASE WHEN said.by IS NULL THEN session_user::text
                   WHEN runtime.is_trusted() THEN said.by
                   ELSE runtime.caller_role() || ' as ' || said.by END, 255)
    FROM (SELECT nullif(current_setting('gristmill.changed_by', true), '') AS by) AS said
$$;

CREATE FUNCTION notifications.begin_endpoint() RETURNS trigger LANGUAGE plpgsql
  SET search_path = pg_catalog, pg_temp AS $$
-- Write who made an endpoint, whatever the statement says. An owner has at most 50: each ended job may become a delivery
-- to all of them. Owners who insert many at the same moment may get a few more.
BEGIN
  NEW.version := 1;
  NEW.previous_secret := NULL;
  NEW.previous_until := NULL;
  NEW.disabled_at := NULL;
  NEW.disabled_reason := NULL;
  NEW.consecutive_failures := 0;
  NEW.first_failure_at := NULL;
  NEW.created_at := now();
  NEW.created_by := notifications.who();
  IF NEW.url IS NOT NULL AND (
      SELECT count(*) FROM notifications.endpoints AS e
       WHERE e.url IS NOT NULL AND (e.owner_id = NEW.owner_id OR (e.owner_id IS NULL AND NEW.owner_id IS NULL))) >= 50 THEN
    RAISE EXCEPTION 'an owner must have at most 50 endpoints'
      USING ERRCODE = 'check_violation', CONSTRAINT = 'ck_endpoints_count', HINT = 'delete one that is not needed';
  END IF;
  RETURN NEW;
END $$;

CREATE FUNCTION notifications.keep_endpoint() RETURNS trigger LANGUAGE plpgsql
  SET search_path = pg_catalog, pg_temp AS $$
-- Count the version of what its owner sets. A new secret makes the old one the previous one, which is valid for a day
-- unless the statement says otherwise. An endpoint that is enabled again has no failures.
DECLARE
  -- The same secret, encrypted with another key.
  v_encrypts boolean := coalesce(current_setting('gristmill.change_action', true) = 'reencrypt', false)
                        AND runtime.is_trusted();
BEGIN
  IF (NEW.id, NEW.owner_id, NEW.created_at, NEW.created_by, NEW.url IS NULL)
     IS DISTINCT FROM (OLD.id, OLD.owner_id, OLD.created_at, OLD.created_by, OLD.url IS NULL) THEN
    RAISE EXCEPTION 'the id, the owner and the origin of an endpoint cannot change' USING ERRCODE = 'check_violation';
  END IF;
  IF v_encrypts THEN
    NEW.version := OLD.version;
    RETURN NEW;
  END IF;
  IF NEW.secret IS DISTINCT FROM OLD.secret THEN
    NEW.previous_secret := OLD.secret;
    IF NEW.previous_until IS NOT DISTINCT FROM OLD.previous_until THEN
      NEW.previous_until := now() + interval '1 day';
    END IF;
  END IF;
  IF NEW.disabled_at IS NULL AND OLD.disabled_at IS NOT NULL THEN
    NEW.disabled_reason := NULL;
    NEW.consecutive_failures := 0;
    NEW.first_failure_at := NULL;
  ELSIF NEW.disabled_at IS NOT NULL AND OLD.disabled_at IS NULL THEN
    NEW.disabled_at := now();
    NEW.disabled_reason := coalesce(left(NEW.disabled_reason, 500), 'disabled by ' || left(notifications.who(), 400));
  END IF;
  NEW.version := OLD.version + CASE
    WHEN (NEW.url, NEW.stages, NEW.every_owner, NEW.secret, NEW.previous_until, NEW.disabled_at)
         IS DISTINCT FROM (OLD.url, OLD.stages, OLD.every_owner, OLD.secret, OLD.previous_until, OLD.disabled_at)
    THEN 1 ELSE 0 END;
  RETURN NEW;
END $$;

CREATE FUNCTION notifications.note_endpoint() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Write what was changed of an endpoint and by whom, and let the guards of job tables write its notices.
DECLARE
  v notifications.endpoints;
  v_action text;
BEGIN
  IF TG_RELID <> 'notifications.endpoints'::regclass THEN
    RAISE EXCEPTION '% is for notifications.endpoints, not for %', TG_NAME, TG_RELID::regclass
      USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF TG_OP = 'DELETE' THEN
    v := OLD;
    v_action := 'deleted';
  ELSIF TG_OP = 'INSERT' THEN
    v := NEW;
    v_action := 'created';
  ELSE
    IF NEW.version = OLD.version THEN RETURN NULL; END IF;  -- only its failures were counted
    v := NEW;
    v_action := CASE WHEN NEW.disabled_at IS NOT NULL AND OLD.disabled_at IS NULL THEN 'disabled'
                     WHEN NEW.disabled_at IS NULL AND OLD.disabled_at IS NOT NULL THEN 'enabled'
                     WHEN NEW.secret <> OLD.secret THEN 'rotated' ELSE 'changed' END;
  END IF;
  INSERT INTO notifications.endpoint_changes (endpoint_id, owner_id, version, action, reason, changed_by, context,
                                              ip_address, user_agent)
  VALUES (v.id, v.owner_id, v.version, v_action,
          coalesce(CASE WHEN v_action = 'disabled' THEN v.disabled_reason END,
                   left(nullif(current_setting('gristmill.change_reason', true), ''), 2000)),
          notifications.who(), runtime.context_of(current_setting('gristmill.context', true)),
          nullif(current_setting('gristmill.ip_address', true), '')::inet,
          left(nullif(current_setting('gristmill.user_agent', true), ''), 1000));
  IF v.url IS NULL THEN RETURN NULL; END IF;  -- of jobs with a callback_url there are notices without it
  DELETE FROM runtime.notice_interests WHERE id = v.id;
  IF TG_OP <> 'DELETE' AND v.disabled_at IS NULL THEN
    INSERT INTO runtime.notice_interests (id, owner_id, every_owner, stages)
    VALUES (v.id, v.owner_id, v.every_owner, v.stages);
  END IF;
  RETURN NULL;
END $$;

CREATE TRIGGER begin_endpoint BEFORE INSERT ON notifications.endpoints
  FOR EACH ROW EXECUTE FUNCTION notifications.begin_endpoint();
CREATE TRIGGER keep_endpoint BEFORE UPDATE ON notifications.endpoints
  FOR EACH ROW EXECUTE FUNCTION notifications.keep_endpoint();
CREATE TRIGGER note_endpoint AFTER INSERT OR UPDATE OR DELETE ON notifications.endpoints
  FOR EACH ROW EXECUTE FUNCTION notifications.note_endpoint();

CREATE FUNCTION notifications.begin_delivery() RETURNS trigger LANGUAGE plpgsql
  SET search_path = pg_catalog, pg_temp AS $$
-- Deliveries of one lane are limited together: those to an endpoint, those of an owner to one host. A lane is shown to
-- people, so it has no user and no password.
BEGIN
  NEW.ended_at := coalesce(NEW.ended_at, now());
  NEW.lane := coalesce(NEW.endpoint_id::text,
                       coalesce(NEW.owner_id::text, 'operators') || ' '
                         || left(lower(substring(NEW.url FROM '^[a-zA-Z]+://(?:[^/?#\\]*@)?([^/?#\\]*)')), 300));
  RETURN NEW;
END $$;
CREATE TRIGGER begin_delivery BEFORE INSERT ON notifications.deliveries
  FOR EACH ROW EXECUTE FUNCTION notifications.begin_delivery();

CREATE FUNCTION notifications.event_of(p_table text, p_status text) RETURNS text LANGUAGE sql STABLE
  SET search_path = pg_catalog, pg_temp AS $$
-- How an end is called in a notice: completed, failed, cancelled, or expired if only the end of a wait leads there.
  SELECT 'job.' || CASE
    WHEN p_status <> ALL (l.terminal[1:3])
         AND EXISTS (SELECT FROM jsonb_each(l.waits) AS w WHERE w.value ->> 'expires' = p_status)
         AND NOT EXISTS (SELECT FROM jsonb_each(l.waits) AS w WHERE w.value -> 'decides' ? p_status) THEN 'expired'
    ELSE coalesce(runtime.outcome_of(p_table, p_status), 'failed') END
    FROM runtime.lifecycles AS l WHERE l.table_name = p_table
$$;

CREATE FUNCTION notifications.take(p_notices runtime.notices[]) RETURNS void LANGUAGE sql VOLATILE
  SET search_path = pg_catalog, pg_temp AS $$
-- Make the deliveries of these notices: one to the callback_url of the job, and one to each endpoint that wants it. A
-- delivery belongs to whom it is for. runtime.take_notices runs this with the rights of the owner of the tables.
  WITH told AS (
    SELECT n.*, coalesce(l.shown_as ->> n.status, n.status) AS shown,
           coalesce(notifications.event_of(n.table_name, n.status), 'job.failed') AS event
      FROM unnest(p_notices) AS n LEFT JOIN runtime.lifecycles AS l ON l.table_name = n.table_name)
  INSERT INTO notifications.deliveries (owner_id, endpoint_id, url, event, job_id, job_stage, job_status, job_version,
                                        ended_at, max_retries)
  SELECT d.owner_id, d.endpoint_id, d.url, d.event, d.job_id, d.stage, d.shown, d.version, d.ended_at, 9
    FROM (SELECT t.owner_id, NULL::uuid AS endpoint_id, t.callback_url AS url, t.event, t.job_id, t.stage, t.shown,
                 t.version, t.ended_at, t.id
            FROM told AS t WHERE t.callback_url IS NOT NULL
           UNION ALL
          SELECT e.owner_id, e.id, NULL, t.event, t.job_id, t.stage, t.shown, t.version, t.ended_at, t.id
            FROM told AS t JOIN notifications.endpoints AS e
              ON e.url IS NOT NULL AND e.disabled_at IS NULL
             AND (e.owner_id = t.owner_id OR (e.owner_id IS NULL AND (e.every_owner OR t.owner_id IS NULL)))
             AND (e.stages IS NULL OR t.stage = ANY (e.stages))) AS d
   ORDER BY d.id
$$;
INSERT INTO runtime.notice_takers (name, statement) VALUES ('notifications', 'SELECT notifications.take($1)');

CREATE FUNCTION notifications.resend(p_delivery_id uuid, p_version integer DEFAULT NULL, p_reason text DEFAULT NULL)
RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Send an ended delivery once more, under the same webhook id and by the whole schedule. Return its new version; NULL if
-- it has not ended, has another version, was sent 100 times, or is not the caller's.
DECLARE
  v_version integer;
BEGIN
  UPDATE notifications.deliveries AS d
     SET status = 'pending', version = d.version + 1, retry_count = d.retry_count + 1,
         max_retries = least(100, greatest(d.max_retries, d.retry_count + 10)), attempts_before = d.retry_count + 1,
         completed_at = NULL, started_at = NULL, lease_owner = NULL, due_at = NULL, progress = 0, updated_at = now(),
         error_message = NULL, change_action = 'resend',
         change_reason = coalesce(left(p_reason, 1000), 'sent again by ' || runtime.caller_role())
   WHERE d.id = p_delivery_id AND d.completed_at IS NOT NULL AND d.version = coalesce(p_version, d.version)
     AND d.retry_count < 100 AND (d.owner_id = runtime.actor_id() OR runtime.is_trusted())
  RETURNING d.version INTO v_version;
  RETURN v_version;
END $$;

CREATE FUNCTION notifications.ping(p_endpoint_id uuid) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Enqueue a delivery that only tests an endpoint, also a disabled one: one attempt. NULL if it is not the caller's.
DECLARE
  v_id uuid;
BEGIN
  INSERT INTO notifications.deliveries (owner_id, endpoint_id, event, priority, max_retries)
  SELECT e.owner_id, e.id, 'endpoint.ping', 3, 0 FROM notifications.endpoints AS e
   WHERE e.id = p_endpoint_id AND e.url IS NOT NULL AND (e.owner_id = runtime.actor_id() OR runtime.is_trusted())
  RETURNING id INTO v_id;
  RETURN v_id;
END $$;

CREATE FUNCTION notifications.delete_endpoint(p_endpoint_id uuid, p_version integer DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Delete an endpoint of the acting user; an operator may delete any. Its waiting deliveries are cancelled when they are
-- due. False if it has another version or is not the caller's.
BEGIN
  DELETE FROM notifications.endpoints AS e
   WHERE e.id = p_endpoint_id AND e.url IS NOT NULL AND e.version = coalesce(p_version, e.version)
     AND (e.owner_id = runtime.actor_id() OR runtime.is_trusted());
  RETURN FOUND;
END $$;
