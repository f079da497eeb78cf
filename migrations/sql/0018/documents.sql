-- Postgres cannot send a text of more than a gigabyte, and an error of one row ends the whole statement. So lists and
-- exports read documents through this function: NULL for one that has more than p_most bytes, or that cannot be sent.
CREATE FUNCTION runtime.readable(p_document jsonb, p_most integer) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_text text;
BEGIN
  -- The size in memory, without writing the text; of a compressed value pg_column_size would be its size on the disk.
  IF p_document IS NULL OR pg_column_size(p_document || '{}'::jsonb) > 16::bigint * p_most THEN
    RETURN NULL;
  END IF;
  v_text := p_document::text;
  RETURN CASE WHEN octet_length(v_text) <= p_most THEN v_text END;
EXCEPTION WHEN program_limit_exceeded OR out_of_memory THEN
  RETURN NULL;
END $$;
COMMENT ON FUNCTION runtime.readable(jsonb, integer) IS 'The text of a document of at most so many bytes, else NULL';
