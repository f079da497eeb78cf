-- One rule for names and ids that people and services give. Old rows stay as they are: a name is looked at when it is
-- given or changed, never when something else of its row changes, so that no job is held up by a key of another day.

-- Pure and without rights of its own: every role that writes a name may run it.
CREATE FUNCTION runtime.is_name(p_text text, p_longest integer) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN length(p_text) BETWEEN 1 AND p_longest
   AND p_text IS NFC NORMALIZED
   -- Nothing that no person sees within (control characters, line ends, marks of direction and of width zero), and
   -- neither a blank nor a joiner at an end.
   -- Within: Unicode's Default_Ignorable_Code_Point, but what joins and the emoji style behind a sign that has one.
   AND p_text !~ '[\u0001-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0e\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]|(?<![#*0-9\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff])\ufe0f|^[ \u00a0\u1680\u2000-\u200a\u200c\u200d\u202f\u205f\u3000]|[ \u00a0\u1680\u2000-\u200a\u200c\u200d\u202f\u205f\u3000]$';

CREATE FUNCTION runtime.refuse_name() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Called only for a row whose name breaks the rule: TG_ARGV has the column, what it is called, and its greatest length.
DECLARE
  v_given text := to_jsonb(NEW) ->> TG_ARGV[0];
BEGIN
  RAISE EXCEPTION '% must have 1 to % characters in Unicode form NFC, without control or invisible characters and '
    'without a blank at either end, got %', TG_ARGV[1], TG_ARGV[2], quote_literal(left(v_given, 80))
    USING ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = TG_ARGV[0],
          CONSTRAINT = TG_NAME;
END $$;
REVOKE EXECUTE ON FUNCTION runtime.refuse_name() FROM PUBLIC;

DO $$
DECLARE
  v record;
BEGIN
  FOR v IN
    SELECT * FROM (VALUES
      ('operations.projects', 'name', 'project name', 255),
      ('operations.projects', 'guidelinesFileName', 'guidelines file name', 255),
      ('operations.bonus_windows', 'name', 'window name', 255),
      ('operations.data_records', 'source', 'source', 512),
      ('operations.data_records', 'reviewedBy', 'reviewer', 255),
      ('operations.likert_scores', 'userId', 'user', 255),
      ('operations.uploads', 'fileName', 'file name', 500),
      ('operations.ingest_jobs', 'source', 'source', 512),
      ('scoring.profiles', 'name', 'profile name', 1000),
      ('assessments.assessment_states', 'assessment_id', 'assessment_id', 255),
      ('runtime.schedules', 'name', 'schedule name', 100),
      ('runtime.stages', 'paused_by', 'paused_by', 255)
    ) AS names (table_name, column_name, label, longest)
    UNION ALL
    SELECT table_name, 'idempotency_key', 'idempotency_key', 255 FROM runtime.lifecycles
     WHERE table_name !~ '^proving\.'
  LOOP
    -- After the row, with the rule as its condition: a row that keeps it calls no function, and COPY stays in batches.
    EXECUTE format(
      'CREATE TRIGGER %I AFTER INSERT OR UPDATE OF %I ON %s FOR EACH ROW WHEN (NOT runtime.is_name(NEW.%I, %s)) '
      'EXECUTE FUNCTION runtime.refuse_name(%L, %L, %L)',
      'name_' || v.column_name, v.column_name, v.table_name, v.column_name, v.longest,
      v.column_name, v.label, v.longest::text);
  END LOOP;
END $$;
