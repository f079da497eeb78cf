-- Keys of clients of the gateway. Constraints as in models/runtime/api_keys.py.

CREATE TABLE runtime.api_keys (
  id uuid NOT NULL DEFAULT uuidv7(),
  name varchar(63) NOT NULL,
  key_hash bytea NOT NULL,
  hint varchar(7) NOT NULL,
  scopes text[] NOT NULL,
  acts_for uuid,
  created_at timestamptz NOT NULL DEFAULT now(),
  created_by varchar(255) NOT NULL,
  expires_at timestamptz,
  last_used_at timestamptz,
  revoked_at timestamptz,
  revoked_by varchar(255),
  revoke_reason text,
  CONSTRAINT pk_api_keys PRIMARY KEY (id),
  CONSTRAINT uq_api_keys_key_hash UNIQUE (key_hash),
  CONSTRAINT ck_api_keys_key_hash CHECK (octet_length(key_hash) = 32),
  CONSTRAINT ck_api_keys_name CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$'),
  CONSTRAINT ck_api_keys_hint CHECK (hint ~ '^gm_[0-9A-Za-z]{4}$'),
  CONSTRAINT ck_api_keys_scopes CHECK (cardinality(scopes) BETWEEN 1 AND 50 AND array_position(scopes, NULL) IS NULL
    AND scopes <@ string_to_array('jobs:read, jobs:write, scoring, scoring:read, operations, operations:read, '
      'assessments, assessments:read, callbacks, callbacks:read, operate, operate:read, admin', ', ')),
  CONSTRAINT ck_api_keys_acts_for CHECK ((acts_for IS NULL) = (scopes && ARRAY['operate', 'operate:read', 'admin'])),
  CONSTRAINT ck_api_keys_times CHECK (isfinite(created_at) AND created_at < '10000-01-01'
    AND isfinite(expires_at) AND expires_at < '10000-01-01' AND isfinite(last_used_at) AND last_used_at < '10000-01-01'
    AND isfinite(revoked_at) AND revoked_at < '10000-01-01'),
  CONSTRAINT ck_api_keys_revoked CHECK ((revoked_at IS NULL) = (revoked_by IS NULL)
    AND (revoke_reason IS NULL OR revoked_at IS NOT NULL)),
  CONSTRAINT ck_api_keys_reason CHECK (length(revoke_reason) <= 2000)
);
-- The name stands in the audit: of the keys in use it names one.
CREATE UNIQUE INDEX uq_api_keys_name ON runtime.api_keys (name) WHERE revoked_at IS NULL;
ALTER TABLE runtime.api_keys ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON runtime.api_keys FROM PUBLIC;
