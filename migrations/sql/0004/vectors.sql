-- Similarity. The column is the seed's array of floats, so that everything but the fast index works without pgvector.

CREATE FUNCTION operations.cosine_distance(a real[], b real[]) RETURNS double precision
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
  -- 0 same direction, 1 unrelated, 2 opposite; null where a vector has no direction. As pgvector's `<=>`, exact and slow.
  SELECT 1 - sum(x::float8 * y) / nullif(sqrt(sum(x::float8 * x)) * sqrt(sum(y::float8 * y)), 0) FROM unnest(a, b) AS u(x, y)
$$;

CREATE FUNCTION operations.pgvector_schema() RETURNS text LANGUAGE sql STABLE
  SET search_path = pg_catalog, pg_temp AS $$
  -- Where pgvector is, or null where it is not, or older than 0.8, which first scans an index on until enough is found.
  SELECT n.nspname::text FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
   WHERE e.extname = 'vector'
     AND string_to_array(regexp_replace(e.extversion, '[^0-9.].*', ''), '.')::integer[] >= ARRAY[0, 8]
$$;

CREATE FUNCTION operations.embedding_index(p_dimensions integer, p_concurrently boolean DEFAULT false) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
-- Return the statement that makes the index for embeddings of this length, or null without pgvector. Whoever owns the
-- table runs it: `gristmill records index`. Its parameters cost half of pgvector's own for each vector written; what a
-- thinner graph misses, a search that looks at more of it finds.
DECLARE
  v_schema text := operations.pgvector_schema();
BEGIN
  IF v_schema IS NULL THEN RETURN NULL; END IF;
  IF p_dimensions IS NULL OR p_dimensions NOT BETWEEN 1 AND 4000 THEN
    RAISE EXCEPTION 'an index takes embeddings of 1 to 4000 dimensions, got %', p_dimensions
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  RETURN format(
    'CREATE INDEX %s IF NOT EXISTS %I ON operations.data_records USING hnsw ((embedding::%I.halfvec(%s)) '
    '%I.halfvec_cosine_ops) WITH (m = 12, ef_construction = 48) WHERE cardinality(embedding) = %s',
    CASE WHEN p_concurrently THEN 'CONCURRENTLY' ELSE '' END, 'ix_data_records_embedding_' || p_dimensions,
    v_schema, p_dimensions, v_schema, p_dimensions);
END $$;

DO $$
DECLARE
  v_index text;
BEGIN
  IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector') THEN
    BEGIN
      CREATE EXTENSION IF NOT EXISTS vector;
    EXCEPTION WHEN insufficient_privilege THEN
      RAISE NOTICE 'this role may not create the extension vector: similarity search will be exact';
    END;
  END IF;
  v_index := operations.embedding_index(384);
  IF v_index IS NOT NULL THEN EXECUTE v_index; END IF;
END $$;
