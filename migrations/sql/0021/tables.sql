-- What models answered and who asks now. Constraints as in models/llm/kept.py.

CREATE TABLE llm.answers (
  id uuid NOT NULL DEFAULT uuidv7(),
  fingerprint bytea NOT NULL,
  owner_id uuid,
  job_id uuid NOT NULL,
  job_version integer NOT NULL,
  raw jsonb NOT NULL,
  path jsonb NOT NULL DEFAULT '[]',
  model varchar(255) NOT NULL,
  input_tokens integer,
  output_tokens integer,
  seconds double precision NOT NULL DEFAULT 0,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz NOT NULL,
  CONSTRAINT pk_answers PRIMARY KEY (id),
  CONSTRAINT ck_answers_fingerprint CHECK (octet_length(fingerprint) = 32),
  CONSTRAINT ck_answers_raw CHECK (jsonb_typeof(raw) = 'object' AND pg_column_size(raw) <= 4194304
    AND jsonb_typeof(path) = 'array' AND pg_column_size(path) <= 65536),
  CONSTRAINT ck_answers_counts CHECK (least(input_tokens, output_tokens) >= 0 AND seconds >= 0),
  CONSTRAINT ck_answers_times CHECK (created_at < expires_at AND expires_at < created_at + interval '400 days')
);
CREATE INDEX ix_answers_fingerprint ON llm.answers (fingerprint);
CREATE INDEX ix_answers_job_id ON llm.answers (job_id);
CREATE INDEX ix_answers_expires_at ON llm.answers (expires_at);

-- A question that may be shared and that a run asks now. It holds as long as its job has that version.
CREATE TABLE llm.flights (
  fingerprint bytea NOT NULL,
  job_id uuid NOT NULL,
  job_version integer NOT NULL,
  taken_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT pk_flights PRIMARY KEY (fingerprint),
  CONSTRAINT ck_flights_fingerprint CHECK (octet_length(fingerprint) = 32)
) WITH (fillfactor = 70);
CREATE INDEX ix_flights_taken_at ON llm.flights (taken_at);
