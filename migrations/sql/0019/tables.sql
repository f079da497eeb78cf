-- Providers, routes and what is bound to them. Constraints as in models/llm.

CREATE SCHEMA IF NOT EXISTS llm;
REVOKE ALL ON SCHEMA llm FROM PUBLIC;

-- An address is plain: no user, query or fragment, which may hold a key. A key of a hosted provider goes to https only.
CREATE FUNCTION llm.is_base_url(p_kind text, p_url text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
  WHEN p_url IS NULL THEN p_kind <> 'compatible'
  WHEN p_kind = 'offline' THEN false
  ELSE length(p_url) <= 2000 AND p_url !~ '[?#@\\"<>]' AND NOT operations.looks_secret(p_url)
    AND p_url ~ '^https?://([A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[!-~]*)?$'
    AND (p_kind = 'compatible' OR p_url LIKE 'https://%')
END;

CREATE TABLE llm.providers (
  name varchar(40) NOT NULL,
  kind varchar(20) NOT NULL,
  base_url text,
  api_key text,
  paused_at timestamptz,
  paused_reason text,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT pk_providers PRIMARY KEY (name),
  CONSTRAINT ck_providers_name CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9_.-]*$' AND name NOT IN ('environment', 'settings')),
  CONSTRAINT ck_providers_kind CHECK (kind IN ('openai', 'openrouter', 'compatible', 'offline')),
  CONSTRAINT ck_providers_base_url CHECK (llm.is_base_url(kind, base_url)),
  CONSTRAINT ck_providers_api_key CHECK (
    api_key IS NULL
    OR kind <> 'offline' AND api_key ~ '^gAAAA[A-Za-z0-9_-]{90,}={0,2}$' AND length(api_key) <= 4096),
  CONSTRAINT ck_providers_paused CHECK ((paused_at IS NULL) = (paused_reason IS NULL)
    AND paused_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-31 00:00:00+00' AND length(paused_reason) <= 500)
);
CREATE TRIGGER touch BEFORE UPDATE ON llm.providers FOR EACH ROW
  WHEN (NEW.updated_at IS NOT DISTINCT FROM OLD.updated_at) EXECUTE FUNCTION runtime.touch();

CREATE TABLE llm.routes (
  name varchar(40) NOT NULL,
  serves varchar(10) NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT pk_routes PRIMARY KEY (name),
  CONSTRAINT uq_routes_name_serves UNIQUE (name, serves),
  CONSTRAINT ck_routes_name CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9_.-]*$'),
  CONSTRAINT ck_routes_serves CHECK (serves IN ('chat', 'embeddings'))
);

CREATE TABLE llm.route_steps (
  route varchar(40) NOT NULL,
  position smallint NOT NULL,
  provider varchar(40) NOT NULL,
  model varchar(200) NOT NULL,
  max_tokens integer,
  context_tokens integer,
  document_prefix text NOT NULL DEFAULT '',
  query_prefix text NOT NULL DEFAULT '',
  CONSTRAINT pk_route_steps PRIMARY KEY (route, position),
  CONSTRAINT fk_route_steps_route_routes FOREIGN KEY (route) REFERENCES llm.routes (name) ON DELETE CASCADE,
  CONSTRAINT fk_route_steps_provider_providers FOREIGN KEY (provider) REFERENCES llm.providers (name),
  CONSTRAINT ck_route_steps_position CHECK (position BETWEEN 0 AND 9),
  CONSTRAINT ck_route_steps_model CHECK (model ~ '^[A-Za-z0-9][A-Za-z0-9_.:/@+-]*$'),
  CONSTRAINT ck_route_steps_tokens CHECK (max_tokens BETWEEN 1 AND 10000000 AND context_tokens BETWEEN 1 AND 100000000),
  CONSTRAINT ck_route_steps_prefixes CHECK (length(document_prefix) <= 150 AND length(query_prefix) <= 150)
);
CREATE INDEX ix_route_steps_provider ON llm.route_steps (provider);

CREATE TABLE llm.route_bindings (
  id uuid NOT NULL DEFAULT uuidv7(),
  serves varchar(10) NOT NULL,
  stage varchar(100),
  project_id uuid,
  route varchar(40) NOT NULL,
  CONSTRAINT pk_route_bindings PRIMARY KEY (id),
  CONSTRAINT uq_route_bindings_serves_stage_project_id UNIQUE NULLS NOT DISTINCT (serves, stage, project_id),
  CONSTRAINT fk_route_bindings_route_serves_routes FOREIGN KEY (route, serves) REFERENCES llm.routes (name, serves),
  CONSTRAINT ck_route_bindings_stage CHECK (stage ~ '\S')
);
CREATE INDEX ix_route_bindings_route ON llm.route_bindings (route);
