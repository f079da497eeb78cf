-- Where Supabase keeps `auth.users`, that table is used and left as it is.
DO $$ BEGIN
  IF to_regclass('auth.users') IS NULL THEN
    IF to_regnamespace('auth') IS NULL THEN
      CREATE SCHEMA auth;
      COMMENT ON SCHEMA auth IS 'made by gristmill';
    END IF;
    CREATE TABLE auth.users (
      id uuid NOT NULL DEFAULT gen_random_uuid() CONSTRAINT pk_users PRIMARY KEY,
      email varchar(255) NOT NULL CONSTRAINT uq_users_email UNIQUE,
      created_at timestamptz NOT NULL DEFAULT now()
    );
    COMMENT ON TABLE auth.users IS 'made by gristmill';
  END IF;
END $$;

CREATE SCHEMA operations;
CREATE TYPE operations."UserRole" AS ENUM ('PENDING', 'USER', 'MANAGER', 'ADMIN');
CREATE TYPE operations."RecordType" AS ENUM ('TASK', 'FEEDBACK');
CREATE TYPE operations."RecordCategory" AS ENUM ('TOP_10', 'BOTTOM_10');

-- The bytes of a text as they are, by the cast that Postgres calls immutable, as `convert_to` is not; so it is inlined.
CREATE FUNCTION operations.content_hash(content text) RETURNS bytea LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
  RETURN sha256(replace(content, E'\\', E'\\\\')::bytea);

CREATE TABLE operations.profiles (
  id uuid NOT NULL CONSTRAINT pk_profiles PRIMARY KEY
    CONSTRAINT fk_profiles_id_users REFERENCES auth.users (id) ON DELETE CASCADE,
  email varchar(255) NOT NULL,
  role operations."UserRole" NOT NULL DEFAULT 'PENDING',
  "mustResetPassword" boolean NOT NULL DEFAULT false,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "updatedAt" timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX idx_profile_email ON operations.profiles (email);

CREATE TABLE operations.projects (
  id uuid NOT NULL DEFAULT uuidv7() CONSTRAINT pk_projects PRIMARY KEY,
  name varchar(255) NOT NULL CONSTRAINT uq_projects_name UNIQUE CONSTRAINT ck_projects_name CHECK (name ~ '\S'),
  "ownerId" uuid CONSTRAINT "fk_projects_ownerId_profiles" REFERENCES operations.profiles (id) ON DELETE CASCADE,
  guidelines text,
  "guidelinesFileName" varchar(255),
  "lastTaskAnalysis" text,
  "lastFeedbackAnalysis" text,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "updatedAt" timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX idx_project_owner ON operations.projects ("ownerId");

CREATE TABLE operations.data_records (
  id uuid NOT NULL DEFAULT uuidv7() CONSTRAINT pk_data_records PRIMARY KEY,
  "projectId" uuid NOT NULL
    CONSTRAINT "fk_data_records_projectId_projects" REFERENCES operations.projects (id) ON DELETE CASCADE,
  type operations."RecordType" NOT NULL,
  category operations."RecordCategory",
  source varchar(512) NOT NULL,
  -- Not by a pattern, which costs a quarter of a row's insert.
  content text NOT NULL CONSTRAINT ck_data_records_content CHECK (btrim(content, E' \t\n\r\f\v') <> ''),
  "contentHash" bytea NOT NULL GENERATED ALWAYS AS (operations.content_hash(content)) STORED,
  metadata jsonb,
  embedding real[] NOT NULL DEFAULT '{}',
  "embeddingModel" varchar(255),
  "alignmentAnalysis" text,
  alignment jsonb,
  "alignmentJobId" uuid,
  "hasBeenReviewed" boolean NOT NULL DEFAULT false,
  "isCategoryCorrect" boolean,
  "reviewedBy" varchar(255),
  "createdById" varchar(255),
  "createdByName" varchar(255),
  "createdByEmail" varchar(255),
  "ingestJobId" uuid,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT ck_data_records_embedding_model CHECK ((cardinality(embedding) = 0) = ("embeddingModel" IS NULL)),
  CONSTRAINT ck_data_records_review CHECK ("hasBeenReviewed" OR num_nonnulls("isCategoryCorrect", "reviewedBy") = 0)
-- Vectorization and analysis each rewrite every row once: room on the page keeps the new version beside the old one.
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX uq_data_records_content ON operations.data_records ("projectId", "contentHash");
CREATE INDEX idx_record_project ON operations.data_records ("projectId");
CREATE INDEX idx_record_type ON operations.data_records (type);
CREATE INDEX idx_record_category ON operations.data_records (category);
CREATE INDEX idx_record_composite ON operations.data_records ("projectId", type, category);
CREATE INDEX "ix_data_records_ingestJobId" ON operations.data_records ("ingestJobId", id);
CREATE INDEX ix_data_records_creator ON operations.data_records ("createdAt", "createdById")
  WHERE "createdById" IS NOT NULL;
CREATE INDEX ix_data_records_pending ON operations.data_records ("projectId", type, id)
  WHERE "embeddingModel" IS NULL;

CREATE TABLE operations.likert_scores (
  id uuid NOT NULL DEFAULT uuidv7() CONSTRAINT pk_likert_scores PRIMARY KEY,
  "recordId" uuid NOT NULL
    CONSTRAINT "fk_likert_scores_recordId_data_records" REFERENCES operations.data_records (id) ON DELETE CASCADE,
  "userId" varchar(255) NOT NULL,
  "realismScore" integer NOT NULL CONSTRAINT ck_likert_scores_realism CHECK ("realismScore" BETWEEN 1 AND 7),
  "qualityScore" integer NOT NULL CONSTRAINT ck_likert_scores_quality CHECK ("qualityScore" BETWEEN 1 AND 7),
  "llmModel" varchar(255),
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT ck_likert_scores_model
    CHECK (("userId" = '00000000-0000-0000-0000-000000000000') = ("llmModel" IS NOT NULL))
);
CREATE INDEX idx_likert_record ON operations.likert_scores ("recordId");
CREATE INDEX idx_likert_user ON operations.likert_scores ("userId");
CREATE INDEX idx_likert_model ON operations.likert_scores ("llmModel");
CREATE UNIQUE INDEX uq_likert_scores_person ON operations.likert_scores ("recordId", "userId")
  WHERE "llmModel" IS NULL;
CREATE UNIQUE INDEX uq_likert_scores_model ON operations.likert_scores ("recordId", "llmModel")
  WHERE "llmModel" IS NOT NULL;

CREATE TABLE operations.uploads (
  id uuid NOT NULL DEFAULT uuidv7() CONSTRAINT pk_uploads PRIMARY KEY,
  "projectId" uuid NOT NULL
    CONSTRAINT "fk_uploads_projectId_projects" REFERENCES operations.projects (id) ON DELETE CASCADE,
  "fileName" varchar(500) NOT NULL,
  "sizeBytes" bigint NOT NULL CONSTRAINT ck_uploads_size CHECK ("sizeBytes" >= 0),
  sha256 bytea NOT NULL,
  encoding varchar(20),
  "lineCount" bigint,
  "createdAt" timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX "ix_uploads_projectId" ON operations.uploads ("projectId");

CREATE TABLE operations.upload_parts (
  "uploadId" uuid NOT NULL
    CONSTRAINT "fk_upload_parts_uploadId_uploads" REFERENCES operations.uploads (id) ON DELETE CASCADE,
  "partNumber" integer NOT NULL,
  content bytea NOT NULL,
  CONSTRAINT pk_upload_parts PRIMARY KEY ("uploadId", "partNumber")
);
ALTER TABLE operations.upload_parts ALTER COLUMN content SET STORAGE EXTERNAL;

CREATE TABLE operations.ingest_jobs (
  id uuid NOT NULL DEFAULT uuidv7() CONSTRAINT pk_ingest_jobs PRIMARY KEY,
  "projectId" uuid NOT NULL
    CONSTRAINT "fk_ingest_jobs_projectId_projects" REFERENCES operations.projects (id) ON DELETE CASCADE,
  type operations."RecordType" NOT NULL,
  status varchar(20) NOT NULL DEFAULT 'PENDING',
  "uploadId" uuid CONSTRAINT "fk_ingest_jobs_uploadId_uploads" REFERENCES operations.uploads (id) ON DELETE SET NULL,
  source varchar(512),
  mapping jsonb NOT NULL DEFAULT '{}',
  "totalRecords" integer NOT NULL DEFAULT 0,
  "savedCount" integer NOT NULL DEFAULT 0,
  "skippedCount" integer NOT NULL DEFAULT 0,
  "skippedDetails" jsonb,
  warnings jsonb,
  "resumeAt" jsonb,
  "embeddedCount" integer NOT NULL DEFAULT 0,
  error text,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  version integer NOT NULL DEFAULT 1,
  priority smallint NOT NULL DEFAULT 5,
  retry_count integer NOT NULL DEFAULT 0,
  max_retries integer NOT NULL DEFAULT 5,
  due_at timestamptz,
  timeout_seconds integer,
  progress smallint NOT NULL DEFAULT 0,
  dispatched_at timestamptz,
  lease_owner uuid,
  deadline_at timestamptz,
  idempotency_key varchar(255),
  change_action varchar(20),
  change_reason text,
  started_at timestamptz,
  completed_at timestamptz,
  CONSTRAINT ck_ingest_jobs_counts CHECK (
    "totalRecords" = "savedCount" + "skippedCount" AND least("savedCount", "skippedCount", "embeddedCount") >= 0),
  -- So that a job whose file is gone is known from one that never had any.
  CONSTRAINT ck_ingest_jobs_source CHECK (coalesce(source, '') LIKE 'csv:%' OR "uploadId" IS NULL),
  CONSTRAINT ck_ingest_jobs_mapping CHECK (jsonb_typeof(mapping) = 'object')
) WITH (fillfactor = 50);
CREATE INDEX idx_ingest_job_project ON operations.ingest_jobs ("projectId");
CREATE INDEX idx_ingest_job_status ON operations.ingest_jobs (status);
CREATE INDEX "ix_ingest_jobs_uploadId" ON operations.ingest_jobs ("uploadId");

CREATE TABLE operations.analytics_jobs (
  id uuid NOT NULL DEFAULT uuidv7() CONSTRAINT pk_analytics_jobs PRIMARY KEY,
  "projectId" uuid NOT NULL
    CONSTRAINT "fk_analytics_jobs_projectId_projects" REFERENCES operations.projects (id) ON DELETE CASCADE,
  type operations."RecordType",
  status varchar(20) NOT NULL DEFAULT 'PENDING',
  "modelName" varchar(255),
  "totalRecords" integer NOT NULL DEFAULT 0,
  "processedCount" integer NOT NULL DEFAULT 0,
  "failedCount" integer NOT NULL DEFAULT 0,
  "resumeAt" jsonb,
  error text,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  version integer NOT NULL DEFAULT 1,
  priority smallint NOT NULL DEFAULT 5,
  retry_count integer NOT NULL DEFAULT 0,
  max_retries integer NOT NULL DEFAULT 5,
  due_at timestamptz,
  timeout_seconds integer,
  progress smallint NOT NULL DEFAULT 0,
  dispatched_at timestamptz,
  lease_owner uuid,
  deadline_at timestamptz,
  idempotency_key varchar(255),
  change_action varchar(20),
  change_reason text,
  started_at timestamptz,
  completed_at timestamptz,
  CONSTRAINT ck_analytics_jobs_counts CHECK (least("totalRecords", "processedCount", "failedCount") >= 0)
) WITH (fillfactor = 50);
CREATE INDEX idx_analytics_job_project ON operations.analytics_jobs ("projectId");

CREATE TABLE operations.analytics_failures (
  "jobId" uuid NOT NULL
    CONSTRAINT "fk_analytics_failures_jobId_analytics_jobs" REFERENCES operations.analytics_jobs (id) ON DELETE CASCADE,
  "recordId" uuid NOT NULL
    CONSTRAINT "fk_analytics_failures_recordId_data_records" REFERENCES operations.data_records (id) ON DELETE CASCADE,
  error text NOT NULL,
  CONSTRAINT pk_analytics_failures PRIMARY KEY ("jobId", "recordId")
);
CREATE INDEX "ix_analytics_failures_recordId" ON operations.analytics_failures ("recordId");

CREATE TABLE operations.guideline_passages (
  "documentHash" bytea NOT NULL,
  "embeddingModel" varchar(255) NOT NULL,
  ordinal integer NOT NULL,
  -- How many the document has: as long as there are fewer, they are still being embedded.
  "of" integer NOT NULL CONSTRAINT ck_guideline_passages_ordinal CHECK (ordinal BETWEEN 1 AND "of"),
  page integer NOT NULL,
  content text NOT NULL,
  embedding real[] NOT NULL,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT pk_guideline_passages PRIMARY KEY ("documentHash", "embeddingModel", ordinal)
);
CREATE INDEX "ix_guideline_passages_createdAt" ON operations.guideline_passages ("createdAt");

CREATE TABLE operations.system_settings (
  key varchar(100) NOT NULL CONSTRAINT pk_system_settings PRIMARY KEY,
  value text NOT NULL,
  description varchar(500),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  -- The last: a key in the clear is refused, whoever writes it. Encrypted ones begin so.
  CONSTRAINT ck_system_settings_value CHECK (CASE
    WHEN key = 'ai_provider' THEN value IN ('lmstudio', 'openrouter', 'openai', 'offline')
    WHEN key = 'ai_host' THEN value ~ '^https?://[^/@]+(/[^@]*)?$'
    WHEN key IN ('openrouter_key', 'openai_key') THEN value LIKE 'gAAAA%'
    ELSE value ~ '\S' END)
);

CREATE TABLE operations.bonus_windows (
  id uuid NOT NULL DEFAULT uuidv7() CONSTRAINT pk_bonus_windows PRIMARY KEY,
  name varchar(255) NOT NULL DEFAULT 'Bonus Window',
  "startTime" timestamptz NOT NULL,
  "endTime" timestamptz NOT NULL,
  "targetTaskCount" integer NOT NULL DEFAULT 0,
  "targetFeedbackCount" integer NOT NULL DEFAULT 0,
  "targetTaskCountTier2" integer NOT NULL DEFAULT 0,
  "targetFeedbackCountTier2" integer NOT NULL DEFAULT 0,
  "createdBy" uuid NOT NULL,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "updatedAt" timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT ck_bonus_windows_times CHECK ("startTime" < "endTime"),
  CONSTRAINT ck_bonus_windows_targets CHECK (
    least("targetTaskCount", "targetFeedbackCount", "targetTaskCountTier2", "targetFeedbackCountTier2") >= 0)
);
CREATE INDEX idx_bonus_window_time ON operations.bonus_windows ("startTime", "endTime");
