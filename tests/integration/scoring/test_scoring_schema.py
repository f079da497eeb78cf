"""The scoring tables have the seed's columns and rules, and each role sees its own rows."""

import uuid

import psycopg
import pytest

# Column: type, nullable, default, as in the seed, except for ids and nulls: see the migration's docstring.
SEED = {
    "id": ("uuid", False, "uuidv7()"),
    "profile_id": ("uuid", False, None),
    "status": ("character varying(40)", False, "'pending'::character varying"),
    "prompt": ("text", False, None),
    "model_name": ("character varying(50)", False, "'gpt-3.5-turbo'::character varying"),
    "llm_response": ("jsonb", True, None),
    "parsed_score": ("jsonb", True, None),
    "error_message": ("text", True, None),
    "retry_count": ("integer", False, "0"),
    "created_at": ("timestamp with time zone", False, "now()"),
    "started_at": ("timestamp with time zone", True, None),
    "completed_at": ("timestamp with time zone", True, None),
    "updated_at": ("timestamp with time zone", False, "now()"),
}
SEED_INDEXES = {
    "idx_scoring_jobs_profile_id": "(profile_id)",
    "idx_scoring_jobs_status": "(status)",
    "idx_scoring_jobs_created_at": "(created_at DESC)",
    "idx_scoring_jobs_status_updated": "(status, updated_at DESC)",
}
ALICE, BOB = uuid.uuid4(), uuid.uuid4()


def columns(psql, table: str):
    rows = psql.execute(
        "SELECT attname AS name, CASE typtype WHEN 'd' THEN format_type(typbasetype, typtypmod)"
        " ELSE format_type(atttypid, atttypmod) END AS type, NOT attnotnull AS nullable, "
        "pg_get_expr(adbin, adrelid) AS fallback FROM pg_attribute "
        "JOIN pg_type ON pg_type.oid = atttypid LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum "
        "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
        [table],
    )
    return {row["name"]: (row["type"], row["nullable"], row["fallback"]) for row in rows}


@pytest.fixture
def profiles(psql):
    """A profile each of Alice, Bob and nobody, with one job; return the ids by owner."""
    ids = {}
    for owner in (ALICE, BOB, None):
        [row] = psql.execute("INSERT INTO scoring.profiles (owner_id, name) VALUES (%s, 'p') RETURNING id", [owner])
        ids[owner] = row["id"]
        psql.execute("SELECT scoring.enqueue_score(%s, 'Judge.')", [row["id"]])
    return ids


@pytest.fixture
def as_service(psql, profiles):
    """Act as a service for one user, or for no user, until the test ends."""
    with psql.transaction(force_rollback=True):

        def speak(user: uuid.UUID | None) -> None:
            psql.execute("SET LOCAL ROLE gristmill_service")
            if user:
                psql.execute(f"SET LOCAL gristmill.user_id = '{user}'")

        yield speak


def seen(psql, table: str) -> int:
    return int(psql.execute(f"SELECT count(*) AS n FROM {table}").fetchone()["n"])


def test_every_column_of_the_seed_is_there_as_it_says(psql):
    """Name, type and default are those of the seed."""
    found = columns(psql, "scoring.scoring_jobs")

    assert {name: found[name] for name in SEED} == SEED


def test_the_lifecycles_columns_stand_beside_them(psql):
    """Every job table has these columns."""
    added = columns(psql, "scoring.scoring_jobs").keys() - SEED.keys()

    assert added == {
        "version",
        "priority",
        "max_retries",
        "due_at",
        "timeout_seconds",
        "progress",
        "dispatched_at",
        "lease_owner",
        "deadline_at",
        "idempotency_key",
        "change_action",
        "change_reason",
        "owner_id",
        "callback_url",
        "traceparent",
        "error_fingerprint",
    }


def test_a_profile_has_an_owner_a_name_and_attributes(psql):
    """A name is enough for a row."""
    assert columns(psql, "scoring.profiles") == {
        "id": ("uuid", False, "uuidv7()"),
        "owner_id": ("uuid", True, "runtime.actor_id()"),
        "name": ("text", False, None),
        "attributes": ("jsonb", False, "'{}'::jsonb"),
        "created_at": ("timestamp with time zone", False, "now()"),
        "updated_at": ("timestamp with time zone", False, "now()"),
    }
    psql.execute("INSERT INTO scoring.profiles (name) VALUES ('Ada')")
    with pytest.raises(psycopg.errors.CheckViolation, match="ck_profiles_name"):
        psql.execute("INSERT INTO scoring.profiles (name) VALUES ('  ')")


def test_the_seeds_indexes_have_their_names_columns_and_order(psql):
    """The seed's indexes cover the whole table; the kernel's own are partial."""
    rows = psql.execute("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'scoring'").fetchall()
    found = {row["indexname"]: row["indexdef"].partition(" USING btree ")[2] for row in rows}

    assert {name: found.get(name) for name in SEED_INDEXES} == SEED_INDEXES


def test_a_deleted_profile_takes_its_jobs_with_it(psql, profiles):
    """``ON DELETE CASCADE`` deletes them; jobs of other profiles stay."""
    psql.execute("DELETE FROM scoring.profiles WHERE id = %s", [profiles[ALICE]])

    assert seen(psql, "scoring.scoring_jobs") == 2


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("prompt", "''", "ck_scoring_jobs_prompt"),
        ("prompt", "E' \\n\\t'", "ck_scoring_jobs_prompt"),
        ("model_name", "''", "ck_scoring_jobs_model_name"),
        ("model_name", "'gpt 4'", "ck_scoring_jobs_model_name"),
        ("model_name", "'-rm'", "ck_scoring_jobs_model_name"),
        ("status", "'done'", "ck_scoring_jobs_status"),
        ("max_retries", "6", "ck_scoring_jobs_max_retries"),
        ("retry_count", "6", "ck_scoring_jobs_retry_count"),
        ("priority", "0", "ck_scoring_jobs_priority"),
    ],
)
def test_the_seeds_rules_are_checks(psql, profiles, column, value, rule):
    """Each value is refused by a constraint that names the column."""
    with pytest.raises(psycopg.errors.CheckViolation, match=rule):
        psql.execute(f"UPDATE scoring.scoring_jobs SET {column} = {value}")


@pytest.mark.parametrize("model", ["gpt-4o-mini", "openai/gpt-4.1:free", "meta-llama/Llama-3.1-8B@q4", "o3"])
def test_model_names_of_every_provider_are_accepted(psql, profiles, model):
    """Names of OpenAI, OpenRouter and a local server are accepted."""
    psql.execute("SELECT scoring.enqueue_score(%s, 'Judge.', %s)", [profiles[ALICE], model])


def test_row_level_security_is_on(psql):
    """Both tables have policies for users, workers and dispatchers, because members do not inherit BYPASSRLS."""
    rows = psql.execute(
        "SELECT relname::text, relrowsecurity, (SELECT count(*) FROM pg_policy WHERE polrelid = c.oid) AS policies "
        "FROM pg_class AS c WHERE oid IN ('scoring.profiles'::regclass, 'scoring.scoring_jobs'::regclass)"
    ).fetchall()

    assert {(row["relname"], row["relrowsecurity"], row["policies"]) for row in rows} == {
        ("profiles", True, 3),
        ("scoring_jobs", True, 3),
    }


def test_a_user_sees_own_profiles_and_their_jobs(psql, profiles, as_service):
    """``SET LOCAL gristmill.user_id`` decides, in the tables and in ``runtime.jobs``."""
    as_service(ALICE)

    assert [row["id"] for row in psql.execute("SELECT id FROM scoring.profiles")] == [profiles[ALICE]]
    assert [row["profile_id"] for row in psql.execute("SELECT profile_id FROM scoring.scoring_jobs")] == [
        profiles[ALICE]
    ]
    assert psql.execute("SELECT count(*) AS n FROM runtime.jobs WHERE stage = 'scoring.score'").fetchone()["n"] == 1


def test_a_service_that_names_no_user_sees_nothing(psql, profiles, as_service):
    """It does not see profiles without an owner either."""
    as_service(None)

    assert (seen(psql, "scoring.profiles"), seen(psql, "scoring.scoring_jobs")) == (0, 0)


def test_a_user_enqueues_for_own_profiles_only(psql, profiles, as_service):
    """The policy covers writes too. The history is written although the role may not write it."""
    as_service(ALICE)

    job_id = psql.execute("SELECT scoring.enqueue_score(%s, 'Judge.') AS id", [profiles[ALICE]]).fetchone()["id"]
    assert psql.execute("SELECT wait_reason FROM runtime.jobs WHERE id = %s", [job_id]).fetchone() is not None
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"), psql.transaction():
        psql.execute("SELECT scoring.enqueue_score(%s, 'Judge.')", [profiles[BOB]])


def test_a_user_cannot_take_anothers_profile(psql, profiles, as_service):
    """A user cannot give a profile away, and cannot update an invisible one."""
    as_service(ALICE)

    with pytest.raises(psycopg.errors.InsufficientPrivilege), psql.transaction():
        psql.execute("UPDATE scoring.profiles SET owner_id = %s WHERE id = %s", [ALICE, profiles[BOB]])
    cursor = psql.execute("UPDATE scoring.profiles SET name = 'mine' WHERE id = %s", [profiles[BOB]])
    assert cursor.rowcount == 0


def test_a_service_reads_the_history_of_its_jobs_and_writes_none(psql, profiles, as_service):
    """Only triggers write the history."""
    as_service(ALICE)

    assert seen(psql, "runtime.transitions") == 1
    with pytest.raises(psycopg.errors.InsufficientPrivilege), psql.transaction():
        psql.execute("DELETE FROM runtime.transitions")


@pytest.mark.parametrize("member", [False, True])
def test_workers_see_every_row(psql, profiles, member):
    """This holds for the role and for logins that are members of it."""
    with psql.transaction(force_rollback=True):
        psql.execute("CREATE ROLE some_worker LOGIN IN ROLE gristmill_worker")
        psql.execute("SET LOCAL ROLE some_worker" if member else "SET LOCAL ROLE gristmill_worker")

        assert (seen(psql, "scoring.profiles"), seen(psql, "scoring.scoring_jobs")) == (3, 3)
