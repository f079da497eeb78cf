-- What is allowed (limits, cooldowns, budgets), what is used of it, and every call. Constraints as in models/llm.

CREATE SCHEMA IF NOT EXISTS llm;
REVOKE ALL ON SCHEMA llm FROM PUBLIC;

CREATE TABLE llm.limits (
  id uuid NOT NULL DEFAULT uuidv7(),
  provider varchar(255),
  model varchar(255),
  stage varchar(100),
  owner_id uuid,
  per_owner boolean NOT NULL DEFAULT false,
  measure varchar(20) NOT NULL,
  at_most bigint NOT NULL,
  window_seconds integer,
  set_by varchar(10) NOT NULL DEFAULT 'operator',
  until timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT pk_limits PRIMARY KEY (id),
  CONSTRAINT uq_limits_one UNIQUE NULLS NOT DISTINCT
    (provider, model, stage, owner_id, per_owner, measure, window_seconds, set_by),
  CONSTRAINT ck_limits_measure
    CHECK (measure IN ('requests', 'input_tokens', 'output_tokens', 'tokens', 'requested_tokens', 'concurrency')),
  CONSTRAINT ck_limits_at_most CHECK (at_most BETWEEN 0 AND 1000000000000),
  CONSTRAINT ck_limits_window CHECK ((window_seconds IS NULL) = (measure = 'concurrency')
    AND window_seconds BETWEEN 1 AND 2678400),
  CONSTRAINT ck_limits_owner CHECK (NOT (per_owner AND owner_id IS NOT NULL)),
  CONSTRAINT ck_limits_set_by CHECK (set_by IN ('operator', 'learned')),
  CONSTRAINT ck_limits_times CHECK (until BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-31 00:00:00+00')
);
CREATE INDEX ix_limits_owner_id ON llm.limits (owner_id);

-- A row per bucket, a 64th of its limit's window; bucket 0 of a limit without a window has the calls under way.
CREATE TABLE llm.window_counts (
  limit_id uuid NOT NULL,
  subject varchar(40) NOT NULL,
  bucket bigint NOT NULL,
  amount bigint NOT NULL,
  CONSTRAINT pk_window_counts PRIMARY KEY (limit_id, subject, bucket),
  CONSTRAINT fk_window_counts_limit_id_limits FOREIGN KEY (limit_id) REFERENCES llm.limits (id) ON DELETE CASCADE
) WITH (fillfactor = 50);

CREATE TABLE llm.cooldowns (
  provider varchar(255) NOT NULL,
  model varchar(255) NOT NULL DEFAULT '',
  since timestamptz NOT NULL,
  until timestamptz NOT NULL,
  reason text NOT NULL,
  CONSTRAINT pk_cooldowns PRIMARY KEY (provider, model),
  CONSTRAINT ck_cooldowns_times CHECK (since <= until AND since > '0001-01-02' AND until < '9999-12-31'),
  CONSTRAINT ck_cooldowns_reason CHECK (length(reason) <= 2000)
);

CREATE TABLE llm.budgets (
  id uuid NOT NULL DEFAULT uuidv7(),
  name varchar(100) NOT NULL,
  scope varchar(10) NOT NULL,
  scope_value varchar(255),
  "window" varchar(10) NOT NULL,
  zone varchar(64) NOT NULL DEFAULT 'UTC',
  usd numeric,
  tokens bigint,
  warn_at numeric[] NOT NULL DEFAULT '{0.8}',
  "then" varchar(10) NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT pk_budgets PRIMARY KEY (id),
  CONSTRAINT uq_budgets_name UNIQUE (name),
  CONSTRAINT ck_budgets_name CHECK (name ~ '\S'),
  CONSTRAINT ck_budgets_scope CHECK (scope IN ('all', 'tenant', 'project', 'profile', 'stage')
    AND (scope = 'all') = (scope_value IS NULL)),
  CONSTRAINT ck_budgets_window CHECK ("window" IN ('day', 'week', 'month', 'total')),
  CONSTRAINT ck_budgets_zone CHECK ((timestamptz '2000-01-01 00:00:00+00' AT TIME ZONE zone) IS NOT NULL),
  CONSTRAINT ck_budgets_amount CHECK (num_nonnulls(usd, tokens) > 0 AND usd >= 0 AND usd < 1000000000000
    AND tokens BETWEEN 0 AND 1000000000000000),
  CONSTRAINT ck_budgets_warn_at CHECK (cardinality(warn_at) <= 20 AND array_position(warn_at, NULL) IS NULL
    AND 0 < ALL (warn_at) AND 100 > ALL (warn_at)),
  CONSTRAINT ck_budgets_then CHECK ("then" IN ('stop', 'slow', 'batch', 'warn'))
);
CREATE INDEX ix_budgets_scope_scope_value ON llm.budgets (scope, scope_value);

-- `spent` has what orphaned calls may have cost, too. A window without a row has no call.
CREATE TABLE llm.budget_totals (
  budget_id uuid NOT NULL,
  window_start timestamptz NOT NULL,
  reserved_usd numeric NOT NULL DEFAULT 0,
  spent_usd numeric NOT NULL DEFAULT 0,
  reserved_tokens bigint NOT NULL DEFAULT 0,
  spent_tokens bigint NOT NULL DEFAULT 0,
  warned_at numeric,
  slow_minute bigint,
  slow_share numeric NOT NULL DEFAULT 0,
  CONSTRAINT pk_budget_totals PRIMARY KEY (budget_id, window_start),
  CONSTRAINT fk_budget_totals_budget_id_budgets FOREIGN KEY (budget_id) REFERENCES llm.budgets (id) ON DELETE CASCADE
) WITH (fillfactor = 50);

CREATE TABLE llm.budget_warnings (
  budget_id uuid NOT NULL,
  window_start timestamptz NOT NULL,
  threshold numeric NOT NULL,
  share numeric NOT NULL,
  created_at timestamptz NOT NULL,
  CONSTRAINT pk_budget_warnings PRIMARY KEY (budget_id, window_start, threshold),
  CONSTRAINT fk_budget_warnings_budget_id_budgets FOREIGN KEY (budget_id) REFERENCES llm.budgets (id) ON DELETE CASCADE
);

-- The last question of each process that asks: a question that was overtaken by its own repetition changes nothing.
CREATE TABLE llm.askers (
  id uuid NOT NULL,
  turn bigint NOT NULL,
  seen_at timestamptz NOT NULL,
  CONSTRAINT pk_askers PRIMARY KEY (id)
) WITH (fillfactor = 50);

CREATE TABLE llm.calls (
  id uuid NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  job_id uuid,
  version integer,
  attempt integer,
  stage varchar(100),
  owner_id uuid,
  project_id uuid,
  profile_id uuid,
  worker_id uuid,
  route varchar(255) NOT NULL,
  step integer NOT NULL DEFAULT 0,
  provider varchar(255) NOT NULL,
  model varchar(255) NOT NULL,
  served_model varchar(255),
  kind varchar(10) NOT NULL,
  lane varchar(10) NOT NULL DEFAULT 'normal',
  batch_id uuid,
  state varchar(10) NOT NULL,
  estimated_input integer NOT NULL,
  max_output integer NOT NULL DEFAULT 0,
  estimated_usd numeric,
  input_tokens integer,
  cached_input_tokens integer,
  output_tokens integer,
  reasoning_tokens integer,
  usage jsonb,
  input_price numeric,
  cached_price numeric,
  output_price numeric,
  usd numeric,
  settled_at timestamptz,
  seconds double precision,
  failure text,
  CONSTRAINT pk_calls PRIMARY KEY (id, created_at),
  CONSTRAINT ck_calls_kind CHECK (kind IN ('chat', 'embeddings')),
  CONSTRAINT ck_calls_lane CHECK (lane IN ('normal', 'batch')),
  CONSTRAINT ck_calls_state CHECK (state IN ('reserved', 'settled', 'unpriced', 'orphaned', 'cached', 'failed')),
  CONSTRAINT ck_calls_counts CHECK (least(estimated_input, max_output, input_tokens, cached_input_tokens, output_tokens,
    reasoning_tokens) >= 0),
  CONSTRAINT ck_calls_money CHECK (least(usd, estimated_usd, input_price, cached_price, output_price) >= 0),
  CONSTRAINT ck_calls_priced CHECK (state <> 'settled' OR usd IS NOT NULL),
  CONSTRAINT ck_calls_texts CHECK (length(failure) <= 2000 AND pg_column_size(usage) <= 65536)
) PARTITION BY RANGE (created_at);
CREATE TABLE llm.calls_default PARTITION OF llm.calls DEFAULT;
CREATE INDEX ix_calls_created_at ON llm.calls USING brin (created_at);
CREATE INDEX ix_calls_job_id ON llm.calls (job_id) WHERE job_id IS NOT NULL;
CREATE INDEX ix_calls_reserved ON llm.calls (worker_id) WHERE state = 'reserved';
