-- Endpoints, the history of their changes, and the rules of deliveries. Constraints as in models/notifications.py.

CREATE TABLE notifications.endpoints (
  id uuid NOT NULL DEFAULT uuidv7(),
  owner_id uuid DEFAULT runtime.actor_id(),
  every_owner boolean NOT NULL DEFAULT false,
  url text,
  stages text[],
  secret text NOT NULL,
  previous_secret text,
  previous_until timestamptz,
  version integer NOT NULL DEFAULT 1,
  disabled_at timestamptz,
  disabled_reason text,
  consecutive_failures integer NOT NULL DEFAULT 0,
  first_failure_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  created_by varchar(255) NOT NULL,
  CONSTRAINT pk_endpoints PRIMARY KEY (id),
  CONSTRAINT ck_endpoints_url CHECK (url ~* '^https?://[^[:space:][:cntrl:]]+$' AND length(url) <= 2048),
  CONSTRAINT ck_endpoints_one_off CHECK (url IS NOT NULL
    OR (stages IS NULL AND NOT every_owner AND disabled_at IS NULL)),
  CONSTRAINT ck_endpoints_every_owner CHECK (NOT every_owner OR owner_id IS NULL),
  CONSTRAINT ck_endpoints_stages CHECK (cardinality(stages) BETWEEN 1 AND 100
    AND array_position(stages, NULL) IS NULL AND octet_length(stages::text) <= 16384),
  CONSTRAINT ck_endpoints_secrets CHECK (length(secret) BETWEEN 1 AND 2000 AND length(previous_secret) <= 2000
    AND (previous_secret IS NULL OR previous_until IS NOT NULL)),
  CONSTRAINT ck_endpoints_disabled CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL)
    AND length(disabled_reason) <= 500),
  CONSTRAINT ck_endpoints_failures CHECK (consecutive_failures >= 0
    AND (consecutive_failures = 0) = (first_failure_at IS NULL)),
  CONSTRAINT ck_endpoints_times CHECK (
    coalesce(previous_until, created_at) BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-31 00:00:00+00'
    AND coalesce(disabled_at, created_at) BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-31 00:00:00+00')
);
CREATE INDEX ix_endpoints_owner_id ON notifications.endpoints (owner_id, id);
CREATE UNIQUE INDEX uq_endpoints_one_off ON notifications.endpoints (owner_id) NULLS NOT DISTINCT WHERE url IS NULL;

CREATE TABLE notifications.endpoint_changes (
  id uuid NOT NULL DEFAULT uuidv7(),
  endpoint_id uuid NOT NULL,
  owner_id uuid,
  version integer NOT NULL,
  action varchar(20) NOT NULL,
  reason text,
  changed_by varchar(255) NOT NULL,
  context jsonb,
  ip_address inet,
  user_agent text,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT pk_endpoint_changes PRIMARY KEY (id),
  CONSTRAINT ck_endpoint_changes_texts CHECK (length(reason) <= 2000 AND length(user_agent) <= 1000)
);
CREATE INDEX ix_endpoint_changes_endpoint_id ON notifications.endpoint_changes (endpoint_id, id);
CREATE INDEX ix_endpoint_changes_created_at ON notifications.endpoint_changes (created_at);

ALTER TABLE notifications.deliveries
  ADD CONSTRAINT ck_deliveries_event CHECK (event ~ '^[a-z]+\.[a-z_]+$'),
  ADD CONSTRAINT ck_deliveries_target CHECK (num_nonnulls(endpoint_id, url) = 1),
  ADD CONSTRAINT ck_deliveries_url CHECK (url ~* '^https?://[^[:space:][:cntrl:]]+$' AND length(url) <= 2048),
  ADD CONSTRAINT ck_deliveries_job CHECK (
    num_nonnulls(job_id, job_stage, job_status, job_version) = CASE WHEN event LIKE 'job.%' THEN 4 ELSE 0 END),
  ADD CONSTRAINT ck_deliveries_attempts CHECK (jsonb_typeof(attempts) = 'array' AND octet_length(attempts::text) <= 131072
    AND attempts_before >= 0);
CREATE INDEX ix_deliveries_owner_id ON notifications.deliveries (owner_id, id);
CREATE INDEX ix_deliveries_endpoint_id ON notifications.deliveries (endpoint_id, id);
CREATE INDEX ix_deliveries_job_id ON notifications.deliveries (job_id, id);
CREATE INDEX ix_deliveries_status ON notifications.deliveries (status, id);
