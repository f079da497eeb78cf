DROP TABLE runtime.retention;
ALTER TABLE runtime.workers DROP CONSTRAINT ck_workers_lease_seconds, DROP CONSTRAINT ck_workers_slots,
  DROP CONSTRAINT ck_workers_running, DROP CONSTRAINT ck_workers_queues, DROP CONSTRAINT ck_workers_provider;
ALTER TABLE runtime.dispatcher DROP CONSTRAINT ck_dispatcher_term, DROP CONSTRAINT ck_dispatcher_lease;
ALTER TABLE runtime.stages DROP CONSTRAINT ck_stages_limit_at_most;
ALTER TABLE runtime.ticks DROP CONSTRAINT ck_ticks_refusal;
ALTER TABLE runtime.schedules DROP CONSTRAINT ck_schedules_refusal;
ALTER TABLE runtime.provider_pauses DROP CONSTRAINT ck_provider_pauses_provider, DROP CONSTRAINT ck_provider_pauses_reason;
DO $$
DECLARE
  v record;
BEGIN
  FOR v IN SELECT conrelid::regclass AS name, conname FROM pg_constraint
            WHERE connamespace = 'runtime'::regnamespace AND conname LIKE '%\_sane\_times' LOOP
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', v.name, v.conname);
  END LOOP;
END $$;
CREATE OR REPLACE FUNCTION runtime.has_worker(p_stage text) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT EXISTS (SELECT FROM runtime.workers
                  WHERE split_part(p_stage, '.', 1) = ANY (queues) AND draining_at IS NULL
                    AND heartbeat_at > now() - make_interval(secs => lease_seconds))
$$;
