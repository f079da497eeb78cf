"""The tables of operations have the seed's columns, rules, cascades and users."""

import pytest
from psycopg import errors

from tests.support.operations_rows import count, one, put_record, rate

TIME = "timestamp with time zone"
CUID = ("uuid", False, "uuidv7()")
STAMPS = {"createdAt": (TIME, False, "now()"), "updatedAt": (TIME, False, "now()")}
COUNT = ("integer", False, "0")


def text(length: int | None = None, *, null: bool = True) -> tuple[str, bool, None]:
    return (f"character varying({length})" if length else "text", null, None)


# Column: type, nullable, default, as in the seed, except for the changes in the migration's docstring.
SEED = {
    "profiles": {
        "id": ("uuid", False, None),
        "email": text(255, null=False),
        "role": ('operations."UserRole"', False, "'PENDING'::operations.\"UserRole\""),
        "mustResetPassword": ("boolean", False, "false"),
        **STAMPS,
    },
    "projects": {
        "id": CUID,
        "name": text(255, null=False),
        "ownerId": ("uuid", True, None),
        "guidelines": text(),
        "guidelinesFileName": text(255),
        "lastTaskAnalysis": text(),
        "lastFeedbackAnalysis": text(),
        **STAMPS,
    },
    "data_records": {
        "id": CUID,
        "projectId": ("uuid", False, None),
        "type": ('operations."RecordType"', False, None),
        "category": ('operations."RecordCategory"', True, None),
        "source": text(512, null=False),
        "content": text(null=False),
        "metadata": ("jsonb", True, None),
        "embedding": ("real[]", False, "'{}'::real[]"),
        "alignmentAnalysis": text(),
        "hasBeenReviewed": ("boolean", False, "false"),
        "isCategoryCorrect": ("boolean", True, None),
        "reviewedBy": text(255),
        "createdById": ("character varying(255)", True, "(runtime.actor_id())::text"),  # the acting user of a service
        "createdByName": text(255),
        "createdByEmail": ("character varying(255)", True, "operations.my_email()"),
        "ingestJobId": ("uuid", True, None),
        **STAMPS,
    },
    "ingest_jobs": {
        "id": CUID,
        "projectId": ("uuid", False, None),
        "type": ('operations."RecordType"', False, None),
        "status": ("character varying(40)", False, "'PENDING'::character varying"),
        "totalRecords": COUNT,
        "savedCount": COUNT,
        "skippedCount": COUNT,
        "skippedDetails": ("jsonb", True, None),
        "error": text(),
        **STAMPS,
    },
    "analytics_jobs": {
        "id": CUID,
        "projectId": ("uuid", False, None),
        "status": ("character varying(40)", False, "'PENDING'::character varying"),
        "totalRecords": COUNT,
        "processedCount": COUNT,
        "error": text(),
        **STAMPS,
    },
    "system_settings": {
        "key": text(100, null=False),
        "value": text(null=False),
        "description": text(500),
        "updatedAt": (TIME, False, "now()"),
    },
    "bonus_windows": {
        "id": CUID,
        "name": ("character varying(255)", False, "'Bonus Window'::character varying"),
        "startTime": (TIME, False, None),
        "endTime": (TIME, False, None),
        "targetTaskCount": COUNT,
        "targetFeedbackCount": COUNT,
        "targetTaskCountTier2": COUNT,
        "targetFeedbackCountTier2": COUNT,
        "createdBy": ("uuid", False, "runtime.actor_id()"),  # our addition: the acting user of a service
        **STAMPS,
    },
    "likert_scores": {
        "id": CUID,
        "recordId": ("uuid", False, None),
        "userId": text(255, null=False),
        "realismScore": ("integer", False, None),
        "qualityScore": ("integer", False, None),
        "llmModel": text(255),
        **STAMPS,
    },
}
SEED_INDEXES = {
    "idx_profile_email",
    "idx_project_owner",
    "idx_record_project",
    "idx_record_type",
    "idx_record_category",
    "idx_record_composite",
    "idx_ingest_job_project",
    "idx_ingest_job_status",
    "idx_analytics_job_project",
    "idx_likert_record",
    "idx_likert_user",
    "idx_likert_model",
    "idx_bonus_window_time",
}
LLM = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def project(psql):
    """A project without an owner."""
    return one(psql, "INSERT INTO operations.projects (name) VALUES ('p') RETURNING id")


@pytest.mark.parametrize("table", SEED)
def test_every_column_of_the_seed_is_there_as_it_says(psql, table):
    """Name, type and default are those of the seed."""
    rows = psql.execute(
        "SELECT attname AS name, CASE typtype WHEN 'd' THEN format_type(typbasetype, typtypmod)"
        " ELSE format_type(atttypid, atttypmod) END AS type, NOT attnotnull AS nullable, "
        "pg_get_expr(adbin, adrelid) AS fallback FROM pg_attribute "
        "JOIN pg_type ON pg_type.oid = atttypid LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum "
        "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
        [f"operations.{table}"],
    ).fetchall()
    found = {row["name"]: (row["type"], row["nullable"], row["fallback"]) for row in rows}

    assert {name: found.get(name) for name in SEED[table]} == SEED[table]


def test_every_index_of_the_seed_is_there(psql):
    """Each index exists by name."""
    found = psql.execute("SELECT indexname FROM pg_indexes WHERE schemaname = 'operations'").fetchall()

    assert {row["indexname"] for row in found} >= SEED_INDEXES


def test_the_enums_have_the_seeds_values_in_order(psql):
    """The order of the roles matters for rights."""
    rows = psql.execute(
        "SELECT typname, array_agg(enumlabel::text ORDER BY enumsortorder) AS labels FROM pg_enum "
        "JOIN pg_type AS t ON t.oid = enumtypid WHERE typnamespace = 'operations'::regnamespace GROUP BY 1"
    ).fetchall()

    assert {row["typname"]: row["labels"] for row in rows} == {
        "UserRole": ["PENDING", "USER", "MANAGER", "ADMIN"],
        "RecordType": ["TASK", "FEEDBACK"],
        "RecordCategory": ["TOP_10", "BOTTOM_10"],
    }


def test_deleting_a_project_takes_everything_of_it_along(psql, project):
    """Records, ratings, files, jobs and failures are deleted too."""
    record = put_record(psql, project)
    psql.execute(
        'INSERT INTO operations.likert_scores ("recordId", "userId", "realismScore", "qualityScore") '
        "VALUES (%s, 'a', 1, 7)",
        [record],
    )
    psql.execute("SELECT operations.enqueue_ingest(%s, 'TASK', 'content')", [project])
    job = one(psql, "SELECT operations.enqueue_analytics(%s)", project)
    psql.execute("INSERT INTO operations.analytics_failures VALUES (%s, %s, 'e')", [job, record])
    tables = ["data_records", "likert_scores", "uploads", "upload_parts", "ingest_jobs", "analytics_jobs"]
    tables.append("analytics_failures")
    assert [count(psql, table) for table in tables] == [1] * len(tables)

    psql.execute("DELETE FROM operations.projects")

    assert [count(psql, table) for table in tables] == [0] * len(tables)


def test_a_content_is_once_in_a_project_and_again_in_another(psql, project):
    """The hash decides, for any type, and the database computes it."""
    put_record(psql, project, "ä")
    other = one(psql, "INSERT INTO operations.projects (name) VALUES ('q') RETURNING id")
    put_record(psql, other, "ä")

    with pytest.raises(errors.UniqueViolation):
        put_record(psql, project, "ä", type="FEEDBACK")
    with pytest.raises(errors.GeneratedAlways):
        put_record(psql, project, "b", contentHash=b"forged")
    assert one(psql, """SELECT bool_and("contentHash" = sha256('\\xc3a4')) FROM operations.data_records""")


BROKEN = [
    ("data_records", {"content": " \n"}, "ck_data_records_content"),
    ("data_records", {"embedding": [0.5]}, "ck_data_records_embedding_model"),
    ("data_records", {"isCategoryCorrect": True}, "ck_data_records_review"),
]


@pytest.mark.parametrize(("columns", "constraint"), [row[1:] for row in BROKEN], ids=[row[2] for row in BROKEN])
def test_a_record_that_breaks_a_rule_is_refused(psql, project, columns, constraint):
    """The database refuses it from everybody."""
    with pytest.raises(errors.CheckViolation, match=constraint):
        put_record(psql, project, **columns)


@pytest.mark.parametrize(
    ("rating", "constraint"),
    [
        (("a", None, 0), "ck_likert_scores_realism"),
        (("a", None, 8), "ck_likert_scores_realism"),
        (("a", "gpt-4", 4), "ck_likert_scores_model"),
        ((LLM, None, 4), "ck_likert_scores_model"),
    ],
)
def test_a_rating_that_breaks_a_rule_is_refused(psql, project, rating, constraint):
    """Ratings are from 1 to 7, and have a model's name only if the rater is a model."""
    record = put_record(psql, project)

    with pytest.raises(errors.CheckViolation, match=constraint):
        rate(psql, record, *rating)


def test_one_rating_per_person_and_one_per_model(psql, project):
    """Models share the zero id and differ by name."""
    record = put_record(psql, project)
    rate(psql, record, "a")
    rate(psql, record, "b")
    rate(psql, record, LLM, "gpt-4")
    rate(psql, record, LLM, "claude-3")

    with pytest.raises(errors.UniqueViolation):
        rate(psql, record, "a")
    with pytest.raises(errors.UniqueViolation):
        rate(psql, record, LLM, "gpt-4")


def test_saved_and_skipped_are_the_total_at_every_commit(psql, project):
    """A CHECK guarantees this."""
    job = one(psql, "SELECT operations.enqueue_ingest(%s, 'TASK', 'content')", project)

    with pytest.raises(errors.CheckViolation, match="ck_ingest_jobs_counts"):
        psql.execute('UPDATE operations.ingest_jobs SET "totalRecords" = 2, "savedCount" = 1 WHERE id = %s', [job])


def test_the_sql_door_keeps_the_file_in_parts_and_a_repeated_key_returns_the_first_job(psql, project):
    """The file is stored unchanged, with one job and one file per key."""
    csv = b"content\n" + b"x" * 2_500_000
    door = "SELECT operations.enqueue_ingest(%s, 'TASK', %s, 'big.csv', p_idempotency_key => 'k')"
    first, again = one(psql, door, project, csv), one(psql, door, project, csv)

    assert first == again
    assert count(psql, "uploads") == 1
    assert count(psql, "upload_parts") == 3
    kept = one(psql, "SELECT string_agg(content, ''::bytea ORDER BY \"partNumber\") FROM operations.upload_parts")
    assert bytes(kept) == csv
    assert one(psql, "SELECT source FROM operations.ingest_jobs") == "csv:big.csv"


def test_a_file_whose_job_has_not_ended_outlives_its_expiry(psql, project):
    """A paused stage loses no file. The file of an ended job may be deleted."""
    job = one(psql, "SELECT operations.enqueue_ingest(%s, 'TASK', 'content')", project)
    psql.execute("DELETE FROM operations.uploads")
    assert (count(psql, "uploads"), count(psql, "upload_parts")) == (1, 1)

    psql.execute(
        "UPDATE operations.ingest_jobs SET status = 'CANCELLED', version = 2, completed_at = now() WHERE id = %s", [job]
    )
    psql.execute("DELETE FROM operations.uploads")
    assert (count(psql, "uploads"), count(psql, "upload_parts")) == (0, 0)


def test_an_empty_file_through_the_sql_door_is_a_job_without_parts(psql, project):
    """The run reports that the file is empty."""
    psql.execute("SELECT operations.enqueue_ingest(%s, 'TASK', '')", [project])

    assert (count(psql, "uploads"), count(psql, "upload_parts")) == (1, 0)


def test_a_new_user_gets_a_profile_that_waits_for_approval(psql):
    """The profile follows a changed address, and is deleted with the user."""
    user = one(psql, "INSERT INTO auth.users (email) VALUES ('a@example.test') RETURNING id")
    [profile] = psql.execute("SELECT id, email, role::text FROM operations.profiles").fetchall()
    assert profile == {"id": user, "email": "a@example.test", "role": "PENDING"}

    psql.execute("UPDATE auth.users SET email = 'b@example.test'")
    assert one(psql, "SELECT email FROM operations.profiles") == "b@example.test"

    psql.execute("DELETE FROM auth.users")
    assert count(psql, "profiles") == 0


def test_whoever_has_no_address_of_his_own_signs_in_all_the_same(psql):
    """Supabase has such users: by telephone, anonymous, or with the address of another user by single sign-on."""
    psql.execute("ALTER TABLE auth.users ALTER email DROP NOT NULL, DROP CONSTRAINT uq_users_email")
    try:
        first = one(psql, "INSERT INTO auth.users (email) VALUES ('a@example.test') RETURNING id")
        twin = one(psql, "INSERT INTO auth.users (email) VALUES ('a@example.test') RETURNING id")
        nobody = one(psql, "INSERT INTO auth.users (email) VALUES (NULL) RETURNING id")
        rows = psql.execute("SELECT id, email FROM operations.profiles").fetchall()
        assert {row["id"]: row["email"] for row in rows} == {
            first: "a@example.test",
            twin: str(twin),
            nobody: str(nobody),
        }

        psql.execute("UPDATE auth.users SET email = NULL WHERE id = %s", [first])
        psql.execute("UPDATE auth.users SET email = 'a@example.test' WHERE id = %s", [nobody])
        assert one(psql, "SELECT email FROM operations.profiles WHERE id = %s", nobody) == "a@example.test"
    finally:
        psql.execute("DELETE FROM auth.users")
        psql.execute("ALTER TABLE auth.users ALTER email SET NOT NULL, ADD CONSTRAINT uq_users_email UNIQUE (email)")


def test_every_change_is_dated(psql, project):
    """The database sets ``updatedAt`` and ignores the given value."""
    psql.execute("""UPDATE operations.projects SET "updatedAt" = '2000-01-01', name = 'r'""")

    assert one(psql, """SELECT "updatedAt" > now() - interval '1 minute' FROM operations.projects""")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ai_provider", "lmstudi"),
        ("ai_host", "localhost:1234"),
        ("ai_host", "http://user:password@host/v1"),
        ("openrouter_key", "sk-or-in-the-clear"),
        ("llm_model", " "),
    ],
)
def test_a_setting_that_breaks_its_rule_is_refused_by_the_database_too(psql, key, value):
    """An unencrypted key is the most important case."""
    with pytest.raises(errors.CheckViolation, match="ck_system_settings_value"):
        psql.execute("INSERT INTO operations.system_settings (key, value) VALUES (%s, %s)", [key, value])
