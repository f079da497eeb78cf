-- How large a text or a file may be that a service writes. As the rule of names: looked at when it is given, never when
-- something else of its row changes. What our own processes write is bounded where they read it.

CREATE FUNCTION runtime.refuse_size() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Called only for a row with a value that is too large: TG_ARGV has what it is called, and its greatest size.
BEGIN
  IF NOT runtime.is_trusted() THEN
    RAISE EXCEPTION '% must have at most % bytes, got more', TG_ARGV[0], TG_ARGV[1]
      USING ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, CONSTRAINT = TG_NAME;
  END IF;
  RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION runtime.refuse_size() FROM PUBLIC;

DO $$
DECLARE
  v record;
BEGIN
  FOR v IN
    SELECT * FROM (VALUES
      ('operations.projects', 'guidelines', 'guidelines', 73400320),
      ('operations.data_records', 'content', 'content', 4194304),
      ('operations.upload_parts', 'content', 'a part of a file', 1048576),
      ('operations.uploads', 'sha256', 'sha256', 32),
      ('operations.ingest_jobs', 'contentHash', 'contentHash', 32),
      ('operations.system_settings', 'value', 'value', 4096)
    ) AS sizes (table_name, column_name, label, most)
  LOOP
    EXECUTE format('CREATE TRIGGER %I AFTER INSERT OR UPDATE OF %I ON %s FOR EACH ROW WHEN (octet_length(NEW.%I) > %s) '
                   'EXECUTE FUNCTION runtime.refuse_size(%L, %L)', 'size_' || v.column_name, v.column_name, v.table_name,
                   v.column_name, v.most, v.label, v.most);
  END LOOP;
END $$;

-- A service says first how large its file is, and its parts are no more than that.
UPDATE operations.uploads SET "sizeBytes" = 34359738368 WHERE "sizeBytes" > 34359738368;
ALTER TABLE operations.uploads ADD CONSTRAINT ck_uploads_size_at_most CHECK ("sizeBytes" <= 34359738368);
ALTER POLICY upload_parts_change ON operations.upload_parts
  USING (EXISTS (SELECT FROM operations.uploads AS u WHERE u.id = "uploadId" AND operations.may_change(u."projectId")))
  WITH CHECK (EXISTS (
    SELECT FROM operations.uploads AS u WHERE u.id = "uploadId" AND operations.may_change(u."projectId")
       AND "partNumber" >= 0
       AND octet_length(content) = least(1048576, u."sizeBytes" - "partNumber"::bigint * 1048576)));
-- Without a word on sizes, and an admin may change every project.
DROP POLICY upload_parts_admin ON operations.upload_parts;
