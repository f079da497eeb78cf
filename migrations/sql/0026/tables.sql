-- Notices of ended jobs, counts of jobs by stage and state, the order of commits. Constraints as in models/runtime.

CREATE TABLE runtime.notices (
  id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_notices PRIMARY KEY,
  job_id uuid NOT NULL,
  stage varchar(100) NOT NULL,
  table_name varchar(130) NOT NULL,
  status varchar(40) NOT NULL,
  version integer NOT NULL,
  owner_id uuid,
  callback_url text CONSTRAINT ck_notices_callback_url CHECK (length(callback_url) <= 2048),
  ended_at timestamptz NOT NULL
    CONSTRAINT ck_notices_times CHECK (ended_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-31 00:00:00+00'),
  problem text CONSTRAINT ck_notices_problem CHECK (length(problem) <= 2000)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

CREATE TABLE runtime.notice_interests (
  id uuid NOT NULL DEFAULT uuidv7() CONSTRAINT pk_notice_interests PRIMARY KEY,
  owner_id uuid,
  every_owner boolean NOT NULL DEFAULT false,
  stages text[],
  CONSTRAINT ck_notice_interests_every_owner CHECK (NOT every_owner OR owner_id IS NULL),
  CONSTRAINT ck_notice_interests_stages CHECK (cardinality(stages) BETWEEN 1 AND 1000
    AND array_position(stages, NULL) IS NULL AND octet_length(stages::text) <= 65536)
);
CREATE INDEX ix_notice_interests_owner_id ON runtime.notice_interests (owner_id);

CREATE TABLE runtime.notice_takers (
  name varchar(100) NOT NULL CONSTRAINT pk_notice_takers PRIMARY KEY,
  statement text NOT NULL CONSTRAINT ck_notice_takers_statement CHECK (octet_length(statement) BETWEEN 1 AND 65536)
);

CREATE TABLE runtime.count_deltas (
  id bigint GENERATED ALWAYS AS IDENTITY (CACHE 32) CONSTRAINT pk_count_deltas PRIMARY KEY,
  stage varchar(100) NOT NULL,
  old_state varchar(40),
  new_stage varchar(100),
  new_state varchar(40),
  action varchar(20) NOT NULL,
  jobs integer NOT NULL,
  moved_at timestamptz NOT NULL DEFAULT clock_timestamp()
    CONSTRAINT ck_count_deltas_times CHECK (moved_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-31 00:00:00+00'),
  CONSTRAINT ck_count_deltas_states CHECK (num_nonnulls(old_state, new_state) > 0
    AND (new_stage IS NULL) = (new_state IS NULL))
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

CREATE TABLE runtime.stage_counts (
  stage varchar(100) NOT NULL,
  state varchar(40) NOT NULL,
  jobs bigint NOT NULL,
  CONSTRAINT pk_stage_counts PRIMARY KEY (stage, state)
) WITH (fillfactor = 50);

CREATE TABLE runtime.minute_counts (
  minute timestamptz NOT NULL
    CONSTRAINT ck_minute_counts_times CHECK (minute BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 00:00:00+00'),
  stage varchar(100) NOT NULL,
  old_state varchar(40) NOT NULL,
  new_state varchar(40) NOT NULL,
  action varchar(20) NOT NULL,
  jobs bigint NOT NULL,
  CONSTRAINT pk_minute_counts PRIMARY KEY (minute, stage, old_state, new_state, action)
) WITH (fillfactor = 70);

CREATE VIEW runtime.counts WITH (security_invoker = true) AS
-- How many jobs each stage has in each state: what is folded and what is not yet, exact in one snapshot.
SELECT stage, state, sum(jobs)::bigint AS jobs
  FROM (SELECT stage, state, jobs FROM runtime.stage_counts
         UNION ALL
        SELECT stage, old_state, -jobs::bigint FROM runtime.count_deltas WHERE old_state IS NOT NULL
         UNION ALL
        SELECT new_stage, new_state, jobs FROM runtime.count_deltas WHERE new_state IS NOT NULL) AS parts
 GROUP BY stage, state HAVING sum(jobs) <> 0;

-- Rows of earlier revisions have none: nobody knows in which order they were committed.
ALTER TABLE runtime.transitions ADD COLUMN transaction_id xid8;
ALTER TABLE runtime.transitions ALTER COLUMN transaction_id SET DEFAULT pg_current_xact_id();

ALTER TABLE runtime.lifecycles ADD COLUMN gives_notices boolean NOT NULL DEFAULT true;
