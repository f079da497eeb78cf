-- Lanes, questions in the batch lane, allowances. Constraints as in models/llm/batches.py.

CREATE INDEX ix_batches_provider ON llm.batches (provider, model, status);
ALTER TABLE llm.batches
  ADD CONSTRAINT ck_batches_names CHECK (provider ~ '\S' AND model ~ '\S'),
  ADD CONSTRAINT ck_batches_texts CHECK (length(input_file_id) <= 500 AND length(provider_batch_id) <= 500
    AND pg_column_size(counts) <= 65536 AND pg_column_size(usage) <= 65536);

CREATE TABLE llm.lanes (
  job_id uuid NOT NULL,
  stage varchar(100) NOT NULL,
  lane varchar(10) NOT NULL,
  within_until timestamptz NOT NULL,
  take_over_at timestamptz NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT pk_lanes PRIMARY KEY (job_id),
  CONSTRAINT ck_lanes_lane CHECK (lane IN ('normal', 'batch')),
  CONSTRAINT ck_lanes_times CHECK (created_at <= take_over_at AND take_over_at <= within_until
    AND within_until BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-31 00:00:00+00'
    AND created_at >= '0001-01-02 00:00:00+00')
);
CREATE INDEX ix_lanes_within_until ON llm.lanes (within_until);

CREATE TABLE llm.batch_requests (
  id uuid NOT NULL DEFAULT uuidv7(),
  job_id uuid NOT NULL,
  stage varchar(100) NOT NULL,
  version integer NOT NULL,
  attempt integer,
  owner_id uuid,
  project_id uuid,
  profile_id uuid,
  key bytea NOT NULL,
  custom_id varchar(64) NOT NULL,
  provider varchar(255) NOT NULL,
  model varchar(255) NOT NULL,
  route varchar(255) NOT NULL,
  step integer NOT NULL DEFAULT 0,
  input_tokens integer NOT NULL,
  output_tokens integer NOT NULL,
  body text,
  body_bytes integer NOT NULL,
  state varchar(10) NOT NULL DEFAULT 'waiting',
  batch_id uuid,
  call_id uuid,
  is_booked boolean NOT NULL DEFAULT false,
  tries smallint NOT NULL DEFAULT 0,
  answer text,
  failure text,
  take_over_at timestamptz NOT NULL,
  within_until timestamptz NOT NULL,
  answered_at timestamptz,
  woken_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT pk_batch_requests PRIMARY KEY (id),
  CONSTRAINT uq_batch_requests_job_id_key UNIQUE (job_id, key),
  -- What a batch is paid for is booked once per line.
  CONSTRAINT uq_batch_requests_batch_id_custom_id UNIQUE (batch_id, custom_id),
  CONSTRAINT ck_batch_requests_state CHECK (state IN ('waiting', 'sent', 'answered', 'failed', 'released')),
  CONSTRAINT ck_batch_requests_answered CHECK ((state = 'answered') = (answer IS NOT NULL)),
  CONSTRAINT ck_batch_requests_sent CHECK (state <> 'sent' OR (batch_id IS NOT NULL AND call_id IS NOT NULL AND body IS NOT NULL)),
  CONSTRAINT ck_batch_requests_counts CHECK (least(version, input_tokens, output_tokens, body_bytes, tries) >= 0),
  CONSTRAINT ck_batch_requests_sizes CHECK (length(key) <= 64 AND octet_length(body) <= 8388608
    AND octet_length(answer) <= 8388608 AND length(failure) <= 2000),
  CONSTRAINT ck_batch_requests_times CHECK (take_over_at <= within_until
    AND within_until BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-31 00:00:00+00'
    AND take_over_at >= '0001-01-02 00:00:00+00')
);
CREATE INDEX ix_batch_requests_waiting ON llm.batch_requests (provider, model, within_until, id)
  WHERE state = 'waiting' AND batch_id IS NULL;
CREATE INDEX ix_batch_requests_within_until ON llm.batch_requests (within_until);

CREATE TABLE llm.batch_allowances (
  provider varchar(255) NOT NULL,
  model varchar(255) NOT NULL DEFAULT '',
  enqueued_tokens bigint NOT NULL,
  CONSTRAINT pk_batch_allowances PRIMARY KEY (provider, model),
  CONSTRAINT ck_batch_allowances_enqueued_tokens CHECK (enqueued_tokens >= 0)
);
