-- Links by which people decide. Constraints as in models/runtime/approvals.py.

CREATE TABLE runtime.approval_tokens (
  id uuid NOT NULL DEFAULT uuidv7(),
  token_hash bytea NOT NULL,
  table_name varchar(130) NOT NULL,
  job_id uuid NOT NULL,
  version integer NOT NULL,
  recipient varchar(255) NOT NULL,
  purpose varchar(40) NOT NULL,
  decides text[] NOT NULL,
  question jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL,
  revoked_at timestamptz,
  used_at timestamptz,
  decision varchar(40),
  note text,
  ip_address inet,
  user_agent text,
  CONSTRAINT pk_approval_tokens PRIMARY KEY (id),
  CONSTRAINT uq_approval_tokens_token_hash UNIQUE (token_hash),
  CONSTRAINT uq_approval_tokens_one UNIQUE (job_id, table_name, version, recipient, purpose),
  CONSTRAINT fk_approval_tokens_table_name_lifecycles FOREIGN KEY (table_name)
    REFERENCES runtime.lifecycles (table_name) ON DELETE CASCADE,
  CONSTRAINT ck_approval_tokens_token_hash CHECK (octet_length(token_hash) = 32),
  CONSTRAINT ck_approval_tokens_version CHECK (version > 0),
  CONSTRAINT ck_approval_tokens_names CHECK (recipient ~ '\S' AND purpose ~ '^[a-z_]+$'),
  CONSTRAINT ck_approval_tokens_decides CHECK (cardinality(decides) BETWEEN 1 AND 20),
  CONSTRAINT ck_approval_tokens_question CHECK (jsonb_typeof(question) = 'object'
    AND octet_length(question::text) <= 262144),
  CONSTRAINT ck_approval_tokens_times CHECK (expires_at < '10000-01-01'),
  CONSTRAINT ck_approval_tokens_used CHECK ((used_at IS NULL) = (decision IS NULL)),
  CONSTRAINT ck_approval_tokens_note CHECK (length(note) <= 2000)
);
ALTER TABLE runtime.approval_tokens ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON runtime.approval_tokens FROM PUBLIC;

DO $$ BEGIN
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    -- Workers make links and take them back. They read no hash, and what was decided is not theirs to write.
    GRANT SELECT (id, table_name, job_id, version, recipient, purpose, decides, question, created_at, expires_at,
                  revoked_at, used_at, decision, note, ip_address, user_agent),
          INSERT (token_hash, table_name, job_id, version, recipient, purpose, decides, question, expires_at),
          UPDATE (token_hash, decides, question, created_at, expires_at, revoked_at),
          DELETE ON runtime.approval_tokens TO gristmill_worker;
    CREATE POLICY approval_tokens_workers ON runtime.approval_tokens FOR ALL TO gristmill_worker USING (true);
  END IF;
END $$;
