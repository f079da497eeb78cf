-- The time of the last change by hand, for the tables where nothing kept it. What the writer itself says stands.

CREATE FUNCTION runtime.touch() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  NEW.updated_at := now();
  RETURN NEW;
END $$;
REVOKE EXECUTE ON FUNCTION runtime.touch() FROM PUBLIC;

CREATE TRIGGER touch BEFORE UPDATE ON scoring.profiles FOR EACH ROW
  WHEN (NEW.updated_at IS NOT DISTINCT FROM OLD.updated_at) EXECUTE FUNCTION runtime.touch();
-- Not for `last_scheduled_for`, which beat moves at every firing.
CREATE TRIGGER touch BEFORE UPDATE OF name, stage, payload, action, cron, timezone, catch_up, enabled
  ON runtime.schedules FOR EACH ROW
  WHEN (NEW.updated_at IS NOT DISTINCT FROM OLD.updated_at) EXECUTE FUNCTION runtime.touch();
