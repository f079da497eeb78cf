-- The SQL door: runtime.enqueue and its kin. Version 1. A later version adds options, never changes a meaning.

-- If SQL may enqueue jobs of a stage: fields of the payload (name, column and the keywords of JSON Schema type, format,
-- enum, minLength, maxLength, minimum, maximum, default), options (name: column) and results (name: column).
ALTER TABLE runtime.stages ADD COLUMN sql_door jsonb;


CREATE FUNCTION runtime.sql_door_version() RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN 1;

CREATE FUNCTION runtime.refuse(
  p_code text, p_field text, p_rule text, p_value text DEFAULT NULL, p_remedy text DEFAULT NULL,
  p_position integer DEFAULT NULL
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Raise one line: field, rule, value, remedy. DETAIL holds the same as JSON.
BEGIN
  RAISE EXCEPTION USING ERRCODE = p_code,
    MESSAGE = CASE WHEN p_position > 0 THEN 'job ' || p_position || ': ' ELSE '' END
              || p_field || ' ' || p_rule || coalesce(', got ' || p_value, '') || coalesce('; ' || p_remedy, ''),
    DETAIL = jsonb_build_object('field', p_field, 'rule', p_rule, 'value', p_value, 'remedy', p_remedy,
                                'position', coalesce(p_position, 0))::text;
END $$;

CREATE FUNCTION runtime.quoted(p_value jsonb) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
  SET search_path = pg_catalog, pg_temp AS $$
-- Return a value as a refusal quotes it: in at most 80 characters.
SELECT CASE WHEN length(t) > 80 THEN left(t, 79) || '…' ELSE t END
  FROM (SELECT CASE coalesce(jsonb_typeof(p_value), 'null')
                    WHEN 'null' THEN 'nothing' WHEN 'string' THEN '''' || left(p_value #>> '{}', 200) || ''''
                    WHEN 'boolean' THEN initcap(p_value::text) WHEN 'number' THEN left(p_value::text, 200)
                    ELSE left(p_value::text, 200) END AS t) AS shown
$$;

CREATE FUNCTION runtime.value_problem(p_rules jsonb, p_value jsonb) RETURNS text LANGUAGE sql STABLE
  SET search_path = pg_catalog, pg_temp AS $$
-- Return the first rule that a value breaks, in the words of the other doors; NULL if it breaks none. The rules are
-- keywords of JSON Schema; the others are checked when a worker claims the job.
SELECT CASE
  WHEN kind = 'null' AND p_rules -> 'type' ? 'null' THEN NULL
  WHEN p_rules ? 'enum' THEN CASE WHEN p_rules -> 'enum' @> p_value THEN NULL ELSE 'must be ' || (
    SELECT string_agg(CASE WHEN nth = 1 THEN '' WHEN nth = count THEN ' or ' ELSE ', ' END || runtime.quoted(one), '' ORDER BY nth)
      FROM (SELECT one, nth, count(*) OVER () AS count
              FROM jsonb_array_elements(p_rules -> 'enum') WITH ORDINALITY AS e(one, nth)) AS named) END
  WHEN p_rules ? 'type' AND NOT (p_rules -> 'type' ? kind OR (kind = 'integer' AND p_rules -> 'type' ? 'number'))
    THEN CASE WHEN p_rules ->> 'format' = 'uuid' THEN 'must be a valid UUID'
              WHEN p_rules ->> 'format' = 'date-time' THEN 'must be a valid datetime'
              ELSE 'must be a valid ' || CASE p_rules -> 'type' ->> 0 WHEN 'object' THEN 'dictionary' WHEN 'array' THEN 'list'
                                              ELSE p_rules -> 'type' ->> 0 END END
  WHEN p_rules ->> 'format' = 'uuid' AND NOT pg_input_is_valid(p_value #>> '{}', 'uuid') THEN 'must be a valid UUID'
  WHEN p_rules ->> 'format' = 'date-time' AND NOT pg_input_is_valid(p_value #>> '{}', 'timestamptz')
    THEN 'must be a valid datetime'
  WHEN kind = 'string' AND length(p_value #>> '{}') > (p_rules ->> 'maxLength')::integer
    THEN format('must have at most %s character%s', p_rules ->> 'maxLength', CASE WHEN p_rules ->> 'maxLength' <> '1' THEN 's' END)
  WHEN kind = 'string' AND length(p_value #>> '{}') < (p_rules ->> 'minLength')::integer
    THEN format('must have at least %s character%s', p_rules ->> 'minLength', CASE WHEN p_rules ->> 'minLength' <> '1' THEN 's' END)
  WHEN kind IN ('integer', 'number') THEN CASE
    WHEN (p_value #>> '{}')::numeric < (p_rules ->> 'minimum')::numeric
      THEN 'must be greater than or equal to ' || (p_rules ->> 'minimum')
    WHEN (p_value #>> '{}')::numeric > (p_rules ->> 'maximum')::numeric
      THEN 'must be less than or equal to ' || (p_rules ->> 'maximum') END
  END
  FROM (SELECT CASE WHEN jsonb_typeof(p_value) <> 'number' THEN jsonb_typeof(p_value)
                    WHEN p_value #>> '{}' ~ '^-?[0-9]+(\.0+)?$' THEN 'integer' ELSE 'number' END AS kind) AS is_a
$$;

CREATE FUNCTION runtime.fields_problem(p_fields jsonb, p_given jsonb, p_unknown text) RETURNS jsonb LANGUAGE sql STABLE
  SET search_path = pg_catalog, pg_temp AS $$
-- Return the first problem of an object: {field, rule, value}. An unknown member comes first, as at the other doors.
SELECT jsonb_build_object('field', left(field, 80), 'rule', rule, 'value', runtime.quoted(p_given -> field)) FROM (
  SELECT 0 AS rank, 0 AS nth, given AS field, p_unknown AS rule FROM jsonb_object_keys(p_given) AS given
   WHERE NOT EXISTS (SELECT FROM jsonb_array_elements(p_fields) AS f WHERE f ->> 'name' = given)
   UNION ALL
  SELECT 1, nth, f ->> 'name',
         CASE WHEN p_given ? (f ->> 'name') THEN runtime.value_problem(f, p_given -> (f ->> 'name'))
              WHEN f ? 'default' THEN NULL ELSE 'is required' END
    FROM jsonb_array_elements(p_fields) WITH ORDINALITY AS e(f, nth)) AS found
 WHERE rule IS NOT NULL ORDER BY rank, nth, field LIMIT 1
$$;

CREATE FUNCTION runtime.as_span(p_given jsonb) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
  SET search_path = pg_catalog, pg_temp AS $$
-- Return a time span as Postgres reads it: a number is seconds.
SELECT CASE jsonb_typeof(p_given) WHEN 'number' THEN (p_given #>> '{}') || ' seconds' ELSE p_given #>> '{}' END
$$;

CREATE FUNCTION runtime.job_problem(p_door jsonb, p_job jsonb) RETURNS jsonb LANGUAGE sql STABLE
  SET search_path = pg_catalog, pg_temp AS $$
-- Return the first problem of a job that is to be enqueued, {field, rule, value}: of its payload, then of its options. An
-- address is not quoted: it may contain a secret.
SELECT CASE WHEN problem ->> 'field' = 'callback_url' THEN problem || '{"value": "another value"}' ELSE problem END FROM (
SELECT CASE
  WHEN jsonb_typeof(p_job) <> 'object' THEN jsonb_build_object('field', 'job', 'rule', 'must be an object', 'value', runtime.quoted(p_job))
  WHEN jsonb_typeof(p_job -> 'payload') IS DISTINCT FROM 'object' THEN
    jsonb_build_object('field', 'payload', 'rule', 'must be an object', 'value', runtime.quoted(p_job -> 'payload'))
  WHEN octet_length((p_job -> 'payload')::text) > 1048576 THEN
    '{"field": "payload", "rule": "must have at most 1,048,576 bytes", "value": "more"}'
  ELSE coalesce(
    runtime.fields_problem(p_door -> 'fields', p_job -> 'payload', 'is not a field of this stage'),
    runtime.fields_problem(
      '[{"name": "payload", "type": ["object"]},
        {"name": "idempotency_key", "type": ["string", "null"], "default": null},
        {"name": "priority", "type": ["integer", "null"], "minimum": 1, "maximum": 10, "default": null},
        {"name": "due_at", "type": ["string", "null"], "format": "date-time", "default": null},
        {"name": "callback_url", "type": ["string", "null"], "default": null},
        {"name": "traceparent", "type": ["string", "null"], "default": null},
        {"name": "on_failed", "type": ["string", "null"], "enum": ["return", "rerun"], "default": null},
        {"name": "lane", "type": ["string", "null"], "enum": ["normal", "batch"], "default": null},
        {"name": "within", "type": ["number", "string", "null"], "default": null}]', p_job, 'is not an option'),
    CASE
      WHEN NOT runtime.is_name(normalize(p_job ->> 'idempotency_key', NFC), 255) THEN jsonb_build_object(
        'field', 'idempotency_key', 'value', runtime.quoted(p_job -> 'idempotency_key'), 'rule',
        'must have 1 to 255 characters, without control or invisible characters and without a blank at either end')
      WHEN p_job ->> 'due_at' !~ '^[0-9]{4,}-' THEN jsonb_build_object(
        'field', 'due_at', 'rule', 'must be a valid datetime', 'value', runtime.quoted(p_job -> 'due_at'))
      WHEN p_job ->> 'due_at' IS NOT NULL AND (p_job ->> 'due_at')::timestamptz NOT BETWEEN '0001-01-02+00' AND '9999-12-31+00'
        THEN jsonb_build_object('field', 'due_at', 'rule', 'must be before the year 10000', 'value', runtime.quoted(p_job -> 'due_at'))
      WHEN p_job ->> 'callback_url' !~* '^https?://[^[:space:][:cntrl:]]+$' THEN jsonb_build_object(
        'field', 'callback_url', 'rule', 'must be a web address that begins with https:// or http:// and has no spaces')
      WHEN length(p_job ->> 'callback_url') > 2048 THEN jsonb_build_object(
        'field', 'callback_url', 'rule', 'must have at most 2048 characters')
      WHEN p_job ->> 'traceparent' !~ '^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$'
        THEN jsonb_build_object(
          'field', 'traceparent', 'rule', 'must be a W3C trace context like 00-<32 hex digits>-<16 hex digits>-01',
          'value', runtime.quoted(p_job -> 'traceparent'))
      WHEN p_job ->> 'within' IS NOT NULL AND p_job ->> 'lane' IS DISTINCT FROM 'batch' THEN jsonb_build_object(
        'field', 'within', 'rule', 'is for the batch lane: give lane=''batch'' with it', 'value', runtime.quoted(p_job -> 'within'))
      WHEN p_job ->> 'within' IS NOT NULL AND NOT pg_input_is_valid(runtime.as_span(p_job -> 'within'), 'interval')
        THEN jsonb_build_object('field', 'within', 'rule', 'must be a time span like 90m, 24h or 2d, or a number of seconds',
                                'value', runtime.quoted(p_job -> 'within'))
      WHEN runtime.as_span(p_job -> 'within')::interval NOT BETWEEN '5 minutes' AND '7 days' THEN jsonb_build_object(
        'field', 'within', 'rule', 'must be from 5 minutes to 7 days', 'value', runtime.quoted(p_job -> 'within'))
      END)
  END AS problem) AS found
$$;

CREATE FUNCTION runtime.put_jobs(p_stage text, p_rows jsonb, p_rerun boolean[])
RETURNS TABLE (ordinal integer, id uuid, created boolean, differs text[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Insert rows (objects by column, all with the same members) into the table of a stage that is open to SQL. Return the
-- job of each, places from 0; of a repeated key what runtime.repeat_jobs returns.
DECLARE
  v_table text;
  v_door jsonb;
  v_columns text[];
  v_order integer[];
  v_ids uuid[];
  v_keys text[];
  v_repeats integer[];
BEGIN
  SELECT s.table_name, s.sql_door INTO STRICT v_table, v_door FROM runtime.stages AS s WHERE s.name = p_stage;
  v_columns := ARRAY(SELECT jsonb_object_keys(p_rows -> 0));
  -- As the Python door does: in the order of the keys, so that two callers with the same keys cannot deadlock.
  v_order := ARRAY(SELECT e.nth::integer FROM jsonb_array_elements(p_rows) WITH ORDINALITY AS e(job, nth)
                    ORDER BY coalesce(e.job ->> 'idempotency_key', '') COLLATE "C", e.nth);
  EXECUTE format(
    'WITH made AS (INSERT INTO %1$s (%2$s) SELECT %3$s FROM unnest($2) WITH ORDINALITY AS o(nth, place) '
    'CROSS JOIN LATERAL jsonb_populate_record(NULL::%1$s, $1 -> (o.nth - 1)) AS r ORDER BY o.place '
    'ON CONFLICT (owner_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING RETURNING id, idempotency_key) '
    'SELECT coalesce(array_agg(id), ''{}''), coalesce(array_agg(idempotency_key::text), ''{}'') FROM made',
    v_table::regclass, (SELECT string_agg(quote_ident(c), ', ') FROM unnest(v_columns) AS c),
    (SELECT string_agg(format('r.%I', c), ', ') FROM unnest(v_columns) AS c))
  INTO v_ids, v_keys USING p_rows, v_order;
  IF cardinality(v_ids) = cardinality(v_order) THEN
    RETURN QUERY SELECT o.nth - 1, v_ids[o.place], true, '{}'::text[] FROM unnest(v_order) WITH ORDINALITY AS o(nth, place);
    RETURN;
  END IF;
  RETURN QUERY
    WITH asked AS (
      SELECT o.nth, k.key, row_number() OVER (PARTITION BY k.key ORDER BY o.place) AS copy
        FROM unnest(v_order) WITH ORDINALITY AS o(nth, place)
       CROSS JOIN LATERAL (SELECT p_rows -> (o.nth - 1) ->> 'idempotency_key' AS key) AS k),
    made AS (
      SELECT m.id, m.key, row_number() OVER (PARTITION BY m.key ORDER BY m.place) AS copy
        FROM ROWS FROM (unnest(v_ids), unnest(v_keys)) WITH ORDINALITY AS m(id, key, place))
    SELECT a.nth - 1, m.id, true, '{}'::text[] FROM asked AS a
      JOIN made AS m ON m.copy = a.copy AND coalesce(m.key, '') = coalesce(a.key, '');
  v_repeats := ARRAY(
    SELECT a.nth FROM (
      SELECT o.nth, k.key, row_number() OVER (PARTITION BY k.key ORDER BY o.place) AS copy
        FROM unnest(v_order) WITH ORDINALITY AS o(nth, place)
       CROSS JOIN LATERAL (SELECT p_rows -> (o.nth - 1) ->> 'idempotency_key' AS key) AS k) AS a
     WHERE a.key IS NOT NULL AND NOT (a.copy = 1 AND a.key = ANY (array_remove(v_keys, NULL))) ORDER BY a.nth);
  RETURN QUERY
    SELECT v_repeats[r.ordinal + 1] - 1, r.id, r.created, r.differs
      FROM runtime.repeat_jobs(v_table, v_columns, v_door -> 'fields',
             (SELECT jsonb_agg(p_rows -> (n.nth - 1) ORDER BY n.place) FROM unnest(v_repeats) WITH ORDINALITY AS n(nth, place)),
             ARRAY(SELECT p_rerun[n.nth] FROM unnest(v_repeats) WITH ORDINALITY AS n(nth, place) ORDER BY n.place)) AS r;
END $$;

CREATE FUNCTION runtime.plain_jobs_condition(p_fields jsonb) RETURNS text LANGUAGE sql STABLE
  SET search_path = pg_catalog, pg_temp AS $$
-- Return a condition on e.job that holds only for jobs without any problem, and for most of them. It costs a tenth of
-- runtime.job_problem, which then looks at the others alone.
SELECT format(
  'coalesce(jsonb_typeof(e.job) = ''object'' AND e.job - ''{payload,idempotency_key,priority}''::text[] = ''{}'' '
  'AND coalesce(''[1,2,3,4,5,6,7,8,9,10]''::jsonb @> (e.job -> ''priority''), true) '
  'AND coalesce(jsonb_typeof(e.job -> ''idempotency_key'') = ''string'', true) '
  'AND coalesce(runtime.is_name(e.job ->> ''idempotency_key'', 255), true) '
  'AND jsonb_typeof(e.job -> ''payload'') = ''object'' AND octet_length((e.job -> ''payload'')::text) <= 1048576 '
  'AND (e.job -> ''payload'') - %L::text[] = ''{}'' AND (%s), false)',
  ARRAY(SELECT f ->> 'name' FROM jsonb_array_elements(p_fields) AS f),
  (SELECT coalesce(string_agg(format(
     CASE WHEN f ? 'enum' THEN 'coalesce(%2$L::jsonb @> (e.job -> ''payload'' -> %1$L), %3$s)'
          WHEN f -> 'type' ->> 0 = 'string' AND f ->> 'format' = 'uuid' THEN
            'coalesce(jsonb_typeof(e.job -> ''payload'' -> %1$L) = ''string'' '
            'AND pg_input_is_valid(e.job -> ''payload'' ->> %1$L, ''uuid''), %3$s)'
          WHEN f -> 'type' ->> 0 = 'string' AND NOT f ? 'format' THEN
            'coalesce(jsonb_typeof(e.job -> ''payload'' -> %1$L) = ''string'' '
            'AND length(e.job -> ''payload'' ->> %1$L) BETWEEN %4$s AND %5$s, %3$s)'
          WHEN f -> 'type' ->> 0 IN ('object', 'array', 'boolean') THEN
            'coalesce(jsonb_typeof(e.job -> ''payload'' -> %1$L) = %6$L, %3$s)'
          ELSE 'coalesce(runtime.value_problem(%7$L, e.job -> ''payload'' -> %1$L) IS NULL '
               'AND e.job -> ''payload'' ? %1$L, false) OR (NOT e.job -> ''payload'' ? %1$L AND %3$s)' END,
     f ->> 'name', f -> 'enum', CASE WHEN f ? 'default' THEN 'true' ELSE 'false' END,
     coalesce(f ->> 'minLength', '0'), coalesce(f ->> 'maxLength', '2000000'), f -> 'type' ->> 0, f), ') AND (' ), 'true')
   FROM jsonb_array_elements(p_fields) AS f))
$$;

CREATE FUNCTION runtime.row_expression(p_door jsonb, p_more text[]) RETURNS text LANGUAGE sql STABLE
  SET search_path = pg_catalog, pg_temp AS $$
-- Return the expression that makes the row of a valid job e.job: an object by column. p_more: the options that not every
-- table knows and that some job gives.
SELECT 'jsonb_build_object(' || string_agg(format('%L, %s', member.name, member.value), ', ') || ')' FROM (
  SELECT f ->> 'column' AS name,
         format('coalesce(e.job -> ''payload'' -> %L, %L::jsonb)', f ->> 'name', coalesce(f -> 'default', 'null')) AS value
    FROM jsonb_array_elements(p_door -> 'fields') AS f
   UNION ALL SELECT 'priority', 'coalesce(nullif(e.job -> ''priority'', ''null''), ''5'')'
   UNION ALL SELECT 'idempotency_key', 'normalize(e.job ->> ''idempotency_key'', NFC)'
   UNION ALL SELECT p_door -> 'options' ->> 'due_at', '(e.job ->> ''due_at'')::timestamptz'
   UNION ALL SELECT m, format('e.job -> %L', m) FROM unnest(p_more) AS m) AS member
$$;

CREATE FUNCTION runtime.refuse_violation(
  p_door jsonb, p_table text, p_state text, p_message text, p_detail text, p_constraint text, p_column text
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Raise why a table refused a row: field, rule and value, without the row.
DECLARE
  v_found text[];
  v_field text;
BEGIN
  IF p_state = '42501' THEN
    IF p_message !~ 'row-level security' THEN
      RAISE EXCEPTION USING ERRCODE = p_state, MESSAGE = p_message;
    END IF;
    PERFORM runtime.refuse('MI004', 'payload', 'must refer to what the acting user has and may use');
  ELSIF p_state = '23503' THEN
    v_found := regexp_match(p_detail, '^Key \("?([^")]+)"?\)=\((.*)\) is not present in table "(.+)"\.$');
    SELECT f ->> 'name' INTO v_field FROM jsonb_array_elements(p_door -> 'fields') AS f WHERE f ->> 'column' = v_found[1];
    PERFORM runtime.refuse('MI001', coalesce(v_field, 'payload'),
      'must refer to an existing row of ' || coalesce(v_found[3], 'another table'), '''' || left(v_found[2], 80) || '''');
  ELSIF p_state = '23505' THEN
    SELECT f ->> 'name' INTO v_field FROM jsonb_array_elements(p_door -> 'fields') AS f
     WHERE p_constraint ~ ('_' || (f ->> 'column') || '$') OR p_detail ~ ('^Key \(.*\m' || (f ->> 'column') || '"?\)=')
     LIMIT 1;
    PERFORM runtime.refuse('MI002', coalesce(v_field, 'payload'), 'must be new: a job has it already');
  ELSIF p_state = '23502' THEN
    SELECT f ->> 'name' INTO v_field FROM jsonb_array_elements(p_door -> 'fields') AS f WHERE f ->> 'column' = p_column;
    PERFORM runtime.refuse('MI001', coalesce(v_field, p_column), 'is required', 'nothing');
  ELSIF nullif(p_constraint, '') IS NULL THEN
    PERFORM runtime.refuse('MI001', 'payload', 'cannot be stored: ' || left(p_message, 500));
  ELSIF p_constraint ~ '^name_' THEN  -- a rule of names, in words that begin with the field
    RAISE EXCEPTION USING ERRCODE = 'MI001', MESSAGE = p_message,
      DETAIL = jsonb_build_object('field', substr(p_constraint, 6), 'rule', p_message, 'value', NULL, 'remedy', NULL, 'position', 0);
  ELSE
    v_field := substr(p_constraint, length('ck_' || split_part(p_table, '.', 2) || '_') + 1);
    IF v_field <> ALL ('{priority,callback_url,traceparent,idempotency_key,due_at}'::text[])
       AND NOT EXISTS (SELECT FROM jsonb_array_elements(p_door -> 'fields') AS f WHERE f ->> 'name' = v_field) THEN
      v_field := 'payload';
    END IF;
    PERFORM runtime.refuse('MI001', v_field, CASE p_constraint
      WHEN 'nested_at_most_64_deep' THEN 'must be nested at most 64 deep'
      WHEN 'numbers_within_1e308' THEN 'must be a number within ±1e308'
      ELSE 'breaks the rule ' || p_constraint END);
  END IF;
END $$;

CREATE FUNCTION runtime.enqueue_many(p_stage text, p_jobs jsonb)
RETURNS TABLE (ordinal integer, id uuid, created boolean)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO' AS $$
-- Enqueue jobs of one stage in the caller's transaction: an array of {"payload": {…}, "idempotency_key", "priority",
-- "due_at", "callback_url", "traceparent", "on_failed", "lane", "within"}. Return the job of each, places from 0, and
-- whether it is new. If one job is refused, all are.
-- SQLSTATE MI001: a value is invalid; MI002: the key is taken by a job with other content; MI003: the stage is not open
-- to SQL; MI004: it is about what the acting user does not have.
DECLARE
  v_table text;
  v_door jsonb;
  v_more text[];
  v_problem record;
  v_rows jsonb;
  v record;
  v_state text;
  v_message text;
  v_detail text;
  v_constraint text;
  v_column text;
BEGIN
  SELECT s.table_name, s.sql_door INTO v_table, v_door FROM runtime.stages AS s WHERE s.name = p_stage;
  IF v_door IS NULL THEN
    PERFORM runtime.refuse('MI003', 'stage', CASE WHEN v_table IS NULL THEN 'is not registered' ELSE 'is not open to SQL' END,
      coalesce(runtime.quoted(to_jsonb(p_stage)), 'nothing'),
      'open stages: ' || (SELECT string_agg(s.name, ', ' ORDER BY s.name) FROM runtime.stages AS s WHERE s.sql_door IS NOT NULL));
  END IF;
  IF jsonb_typeof(p_jobs) IS DISTINCT FROM 'array' THEN
    PERFORM runtime.refuse('MI001', 'jobs', 'must be an array', runtime.quoted(p_jobs));
  END IF;
  IF jsonb_array_length(p_jobs) = 0 THEN RETURN; END IF;
  EXECUTE format(
    'SELECT e.nth::integer - 1 AS place, p.problem FROM jsonb_array_elements($1) WITH ORDINALITY AS e(job, nth) '
    'CROSS JOIN LATERAL (SELECT CASE WHEN NOT (%s) THEN runtime.job_problem($2, e.job) END AS problem OFFSET 0) AS p '
    'WHERE p.problem IS NOT NULL ORDER BY e.nth LIMIT 1', runtime.plain_jobs_condition(v_door -> 'fields'))
  INTO v_problem USING p_jobs, v_door;
  IF v_problem.problem IS NOT NULL THEN
    PERFORM runtime.refuse('MI001', v_problem.problem ->> 'field', v_problem.problem ->> 'rule',
                           v_problem.problem ->> 'value', NULL, v_problem.place);
  END IF;
  v_more := ARRAY(SELECT o FROM unnest('{callback_url,traceparent}'::text[]) AS o
                   WHERE EXISTS (SELECT FROM jsonb_array_elements(p_jobs) AS j WHERE j ->> o IS NOT NULL));
  FOR v IN SELECT o AS name FROM unnest(v_more) AS o WHERE NOT EXISTS (
             SELECT FROM pg_attribute WHERE attrelid = v_table::regclass AND attname = o AND NOT attisdropped) LOOP
    PERFORM runtime.refuse('MI001', v.name, 'is not an option of this stage');
  END LOOP;
  BEGIN
    EXECUTE format('SELECT jsonb_agg(%s ORDER BY e.nth) FROM jsonb_array_elements($1) WITH ORDINALITY AS e(job, nth)',
                   runtime.row_expression(v_door, v_more)) INTO v_rows USING p_jobs;
    FOR v IN
      SELECT p.* FROM runtime.put_jobs(p_stage, v_rows,
        ARRAY(SELECT coalesce(e.job ->> 'on_failed' = 'rerun', false)
                FROM jsonb_array_elements(p_jobs) WITH ORDINALITY AS e(job, nth) ORDER BY e.nth)) AS p ORDER BY p.ordinal
    LOOP
      IF v.id IS NULL OR cardinality(v.differs) > 0 THEN
        PERFORM runtime.refuse('MI002', 'idempotency_key', 'is taken by a job ' ||
          CASE WHEN v.id IS NULL THEN 'that cannot be seen (any more)'
               ELSE 'with another ' || array_to_string(v.differs, ', ') END,
          runtime.quoted(p_jobs -> v.ordinal -> 'idempotency_key'), NULL, v.ordinal);
      END IF;
      IF v.created AND p_jobs -> v.ordinal ->> 'lane' = 'batch' THEN
        PERFORM runtime.put_in_lane(ARRAY[v.id], 'batch',
                                    coalesce(runtime.as_span(p_jobs -> v.ordinal -> 'within'), '24 hours')::interval);
      END IF;
      ordinal := v.ordinal;
      enqueue_many.id := v.id;
      created := v.created;
      RETURN NEXT;
    END LOOP;
  EXCEPTION WHEN integrity_constraint_violation OR data_exception OR insufficient_privilege THEN
    GET STACKED DIAGNOSTICS v_state = RETURNED_SQLSTATE, v_message = MESSAGE_TEXT, v_detail = PG_EXCEPTION_DETAIL,
      v_constraint = CONSTRAINT_NAME, v_column = COLUMN_NAME;
    PERFORM runtime.refuse_violation(v_door, v_table, v_state, v_message, v_detail, v_constraint, v_column);
  END;
END $$;

CREATE FUNCTION runtime.enqueue(
  p_stage text, p_payload jsonb, p_idempotency_key text DEFAULT NULL, p_priority integer DEFAULT NULL,
  p_due_at timestamptz DEFAULT NULL, p_callback_url text DEFAULT NULL, p_traceparent text DEFAULT NULL,
  p_on_failed text DEFAULT NULL, p_lane text DEFAULT NULL, p_within interval DEFAULT NULL
) RETURNS uuid LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
-- Enqueue one job in the caller's transaction and return its id; see runtime.enqueue_many.
SELECT e.id FROM runtime.enqueue_many(p_stage, jsonb_build_array((
  SELECT jsonb_object_agg(o.name, o.value) FROM (VALUES
    ('payload', coalesce(p_payload, 'null')), ('idempotency_key', to_jsonb(p_idempotency_key)), ('priority', to_jsonb(p_priority)),
    ('due_at', to_jsonb(p_due_at)), ('callback_url', to_jsonb(p_callback_url)), ('traceparent', to_jsonb(p_traceparent)),
    ('on_failed', to_jsonb(p_on_failed)), ('lane', to_jsonb(p_lane)),
    ('within', to_jsonb(extract(epoch FROM p_within)))) AS o(name, value) WHERE o.value IS NOT NULL))) AS e
$$;

CREATE FUNCTION runtime.outcome_of(p_table text, p_status text) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$
-- Return what an end counts as: completed, failed or cancelled. NULL for a state that is no end.
SELECT CASE WHEN p_status <> ALL (l.terminal) THEN NULL
            WHEN p_status = l.terminal[3] OR l.ends ->> p_status = 'neutral' THEN 'cancelled'
            WHEN p_status = ANY (runtime.failed_states(p_table)) THEN 'failed' ELSE 'completed' END
  FROM runtime.lifecycles AS l WHERE l.table_name = p_table
$$;

CREATE FUNCTION runtime.status(p_job_id uuid) RETURNS TABLE (
  id uuid, stage text, status text, outcome text, version integer, progress integer, retry_count integer, error text,
  wait_reason text, created_at timestamptz, completed_at timestamptz)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
-- Return a job that the caller may see; no row if there is none. The outcome is completed, failed or cancelled, or NULL
-- until the job has ended.
SELECT j.id, j.stage::text, j.shown_as::text,
       runtime.outcome_of(j.table_name, j.status::text),
       j.version, j.progress::integer, j.retry_count, j.error_message, j.wait_reason, j.created_at, j.completed_at
  FROM runtime.jobs AS j WHERE j.id = p_job_id
$$;

CREATE FUNCTION runtime.result(p_job_id uuid) RETURNS jsonb LANGUAGE plpgsql STABLE
  SET search_path = pg_catalog, pg_temp AS $$
-- Return what a job that completed has found: {name: value}. NULL before, after another end, and if the caller sees no
-- such job.
DECLARE
  v record;
  v_found jsonb;
BEGIN
  SELECT s.sql_door -> 'results' AS results, s.table_name INTO v
    FROM runtime.jobs AS j JOIN runtime.stages AS s ON s.name = j.stage
   WHERE j.id = p_job_id AND runtime.outcome_of(j.table_name, j.status::text) = 'completed';
  IF coalesce(v.results, '{}') = '{}' THEN RETURN NULL; END IF;
  -- By column: the caller may not read every column.
  EXECUTE (SELECT format('SELECT jsonb_build_object(%s) FROM %s AS j WHERE j.id = $1',
                         string_agg(format('%L, j.%I', r.key, r.value), ', '), v.table_name::regclass)
             FROM jsonb_each_text(v.results) AS r)
  INTO v_found USING p_job_id;
  RETURN v_found;
END $$;
