"""The gateway's login: alone it can find keys and little else; in a transaction it becomes the role of its caller."""

from contextlib import closing

import psycopg
import pytest
from psycopg import errors

from tests.support.paths import ROOT

OURS = "(SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema')"
# What the login reads by itself: whether it is ready, and nothing of tenants.
# Counts of jobs name no tenant and no job; metrics read them.
COUNTS = {"runtime.count_deltas", "runtime.stage_counts", "runtime.minute_counts", "runtime.counts"}
MAY_READ = {"runtime.dispatcher", "runtime.schedules", "runtime.lifecycles", "alembic_version"} | COUNTS
MAY_CALL_WITH_OWNERS_RIGHTS = {
    "runtime.authenticate_keys",
    "runtime.roles_of_users",
    "runtime.note_key_use",
    "runtime.read_approval",
    "runtime.decide_by_token",
}


@pytest.fixture
def gateway(gateway_url):
    """A connection with the gateway's login."""
    with closing(psycopg.connect(gateway_url, autocommit=True)) as connection:
        yield connection


def names(connection, statement: str) -> set[str]:
    return {str(name) for (name,) in connection.execute(statement).fetchall()}


def test_alone_it_reads_and_writes_no_data(gateway):
    """A route that forgets its session has no rights. This covers every table, view and sequence."""
    any_right = "has_any_column_privilege(oid, 'SELECT, INSERT, UPDATE, REFERENCES')"
    tables = f"""SELECT oid::regclass FROM pg_class
                  WHERE relkind IN ('r', 'p', 'v') AND relnamespace::regnamespace::text IN {OURS}"""

    assert names(gateway, f"{tables} AND ({any_right} OR has_table_privilege(oid, 'DELETE, TRUNCATE'))") == MAY_READ
    assert names(gateway, f"{tables} AND has_any_column_privilege(oid, 'INSERT, UPDATE, REFERENCES')") == set()


def test_it_calls_only_the_functions_of_the_door_with_their_owners_rights(gateway):
    """Each of them needs a key, a token or the id of a user, and answers with no data of that user."""
    found = names(
        gateway,
        f"""SELECT format('%s.%s', pronamespace::regnamespace, proname) FROM pg_proc
             WHERE prosecdef AND pronamespace::regnamespace::text IN {OURS}
               AND has_function_privilege(oid, 'EXECUTE')""",
    )

    assert found == MAY_CALL_WITH_OWNERS_RIGHTS


def test_it_becomes_a_service_or_an_operator_and_nothing_else(gateway):
    """Of all roles of the server."""
    found = names(
        gateway, "SELECT rolname FROM pg_roles WHERE pg_has_role(oid, 'SET') AND rolname NOT IN (session_user)"
    )

    assert found == {"gristmill_gateway", "gristmill_service", "gristmill_operator"}


def test_before_it_becomes_an_operator_it_is_not_trusted(gateway):
    """That it may become one counts for nothing."""
    trusted = "SELECT runtime.is_trusted()"

    assert gateway.execute(trusted).fetchone() == (False,)
    with gateway.transaction():
        gateway.execute("SET LOCAL ROLE gristmill_service")
        assert gateway.execute(trusted).fetchone() == (False,)
    with gateway.transaction():
        gateway.execute("SET LOCAL ROLE gristmill_operator")
        assert gateway.execute(trusted).fetchone() == (True,)


SET_MEMBERSHIPS = "DO $$\nDECLARE\n  v_group"
MEMBERSHIPS = """SELECT roleid::regrole::text, member::regrole::text, inherit_option, set_option FROM pg_auth_members
                  WHERE member IN ('gristmill_gateway'::regrole, 'gristmill_operator'::regrole) ORDER BY 1, 2"""


@pytest.fixture
def grantor(psql):
    """A role that may grant the groups, as an administrator of a hosted server may."""
    psql.execute("CREATE ROLE test_grantor")
    psql.execute("GRANT gristmill_service, gristmill_worker TO test_grantor WITH ADMIN TRUE")
    yield "test_grantor"
    for role, member in (("gristmill_service", "gristmill_gateway"), ("gristmill_worker", "gristmill_operator")):
        psql.execute(f"REVOKE {role} FROM {member} GRANTED BY test_grantor")
    psql.execute("REVOKE gristmill_service, gristmill_worker FROM test_grantor")
    psql.execute("DROP ROLE test_grantor")


def test_the_migration_corrects_what_every_grantor_gave(psql, grantor):
    """The most generous membership counts, so that of another administrator would leave the gateway its rights."""
    statement = (ROOT / "migrations/sql/0027/rights.sql").read_text()
    statement = SET_MEMBERSHIPS + statement.partition(SET_MEMBERSHIPS)[2]
    before = psql.execute(MEMBERSHIPS).fetchall()
    psql.execute(f"GRANT gristmill_service TO gristmill_gateway WITH INHERIT TRUE GRANTED BY {grantor}")
    psql.execute(f"GRANT gristmill_worker TO gristmill_operator WITH SET TRUE GRANTED BY {grantor}")
    psql.execute("GRANT gristmill_operator TO gristmill_gateway WITH INHERIT TRUE")

    psql.execute(statement)

    after = psql.execute(MEMBERSHIPS).fetchall()
    assert len(after) == len(before) + 2
    assert {tuple(row.values()) for row in after} == {tuple(row.values()) for row in before}


@pytest.mark.parametrize("role", ["gristmill_service", "gristmill_gateway", "gristmill_worker"])
def test_only_operators_read_keys(psql, role):
    """And they read no hash."""
    with psql.transaction(force_rollback=True):
        psql.execute(f"SET LOCAL ROLE {role}")
        with pytest.raises(errors.InsufficientPrivilege):
            psql.execute("SELECT name FROM runtime.api_keys")


OF_NO_OPERATOR = (
    "SELECT key_hash FROM runtime.api_keys",
    "SELECT * FROM runtime.api_keys",
    "UPDATE runtime.api_keys SET scopes = '{admin}'",
    "UPDATE runtime.api_keys SET last_used_at = now()",
    "DELETE FROM runtime.api_keys",
    "SELECT * FROM runtime.authenticate_keys('{}')",
    "SELECT * FROM runtime.roles_of_users('{}')",
    "SELECT runtime.sign_actor(gen_random_uuid(), 600)",
    "INSERT INTO runtime.api_keys (created_by) VALUES ('somebody')",
)


@pytest.mark.parametrize("statement", OF_NO_OPERATOR)
def test_an_operator_makes_and_revokes_keys_and_nothing_else(psql, statement):
    """It can neither sign for a user, nor change what a key may do, nor hide who made it."""
    with psql.transaction(force_rollback=True):
        psql.execute("SET LOCAL ROLE gristmill_operator")
        with pytest.raises(errors.InsufficientPrivilege):
            psql.execute(statement)


INSERT = (
    "INSERT INTO runtime.api_keys (name, key_hash, hint, scopes, acts_for) VALUES (%s, sha256(%s), 'gm_0000', %s, %s)"
)
WRONG = {
    "an unknown scope": ("a", ["jobs:delete"], None, errors.CheckViolation),
    "no scope": ("a", [], None, errors.CheckViolation),
    "a null scope": ("a", [None, "admin"], None, errors.CheckViolation),
    "a user with a scope of operators": ("a", ["admin", "jobs:read"], "ada", errors.CheckViolation),
    "nobody without a scope of operators": ("a", ["jobs:read"], None, errors.CheckViolation),
    "a user who does not exist": ("a", ["jobs:read"], "nobody", errors.ForeignKeyViolation),
    "a line break in the name": ("a\nb", ["admin"], None, errors.CheckViolation),
    "a space in the name": ("a b", ["admin"], None, errors.CheckViolation),
    "an empty name": ("", ["admin"], None, errors.CheckViolation),
}


@pytest.mark.parametrize("case", WRONG)
def test_the_database_refuses_a_wrong_key(psql, case):
    """Whoever makes it, the owner of the tables too."""
    name, scopes, user, refusal = WRONG[case]
    ids = {
        "ada": psql.execute("INSERT INTO auth.users (email) VALUES ('ada') RETURNING id").fetchone()["id"],
        "nobody": "00000000-0000-4000-8000-000000000009",
    }

    with pytest.raises(refusal):
        psql.execute(INSERT, [name, b"x", scopes, user and ids[user]])


CHANGES = (
    "name = 'b'",
    "scopes = '{operate}'",
    "key_hash = sha256('y')",
    "expires_at = now()",
    "created_by = 'somebody'",
    "id = gen_random_uuid()",
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_key_never_changes(psql, change):
    """Not even by the owner of the tables: what was allowed is what the history says."""
    psql.execute(INSERT, ["a", b"x", ["admin"], None])

    with pytest.raises(errors.IntegrityConstraintViolation):
        psql.execute(f"UPDATE runtime.api_keys SET {change}")


def test_a_revoked_key_stays_revoked_and_says_by_whom(psql):
    """By the name of the session, whatever the statement says."""
    psql.execute(INSERT, ["a", b"x", ["admin"], None])
    psql.execute("SELECT set_config('gristmill.changed_by', 'cli:ada', false)")

    psql.execute("UPDATE runtime.api_keys SET revoked_at = '2001-01-01', revoked_by = 'eve', revoke_reason = 'leaked'")

    row = psql.execute(
        "SELECT revoked_by, revoke_reason, revoked_at > now() - interval '1 day' AS is_recent FROM runtime.api_keys"
    ).fetchone()
    assert row == {"revoked_by": "cli:ada", "revoke_reason": "leaked", "is_recent": True}
    for change in ("revoked_at = NULL, revoked_by = NULL", "revoke_reason = 'no'", "revoked_by = 'eve'"):
        with pytest.raises(errors.IntegrityConstraintViolation):
            psql.execute(f"UPDATE runtime.api_keys SET {change}")


def test_of_the_keys_in_use_a_name_is_one(psql):
    """A revoked key leaves its name to its successor."""
    psql.execute(INSERT, ["a", b"x", ["admin"], None])
    with pytest.raises(errors.UniqueViolation):
        psql.execute(INSERT, ["a", b"y", ["admin"], None])

    psql.execute("UPDATE runtime.api_keys SET revoked_at = now()")

    psql.execute(INSERT, ["a", b"y", ["admin"], None])
