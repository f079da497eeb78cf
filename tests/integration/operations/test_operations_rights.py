"""Who may see and change which rows of operations, by the role of the user that a service acts for."""

import pytest
from psycopg import errors

from tests.support.operations_rows import count, one, put_record, rate

ROLES = ("PENDING", "USER", "MANAGER", "ADMIN")


@pytest.fixture
def users(psql):
    """A user of each role, a second USER, and a project of the first USER with one record."""
    ids = {}
    for name in (*ROLES, "OTHER"):
        user = one(psql, "INSERT INTO auth.users (email) VALUES (%s) RETURNING id", f"{name}@example.test".lower())
        psql.execute(
            "UPDATE operations.profiles SET role = %s WHERE id = %s", ["USER" if name == "OTHER" else name, user]
        )
        ids[name] = user
    project = one(
        psql, "INSERT INTO operations.projects (name, \"ownerId\") VALUES ('mine', %s) RETURNING id", ids["USER"]
    )
    ids["project"], ids["record"] = project, put_record(psql, project)
    psql.execute("INSERT INTO operations.system_settings (key, value) VALUES ('ai_provider', 'offline')")
    return ids


@pytest.fixture
def speak(psql, users):
    """Act as a service for one user, or for no user, until the test ends."""
    with psql.transaction(force_rollback=True):

        def speak(name: str | None):
            psql.execute("SET LOCAL ROLE gristmill_service")
            psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(users[name]) if name else ""])
            return psql

        yield speak


@pytest.mark.parametrize(
    ("name", "profiles", "records", "settings"),
    [(None, 0, 0, 0), ("PENDING", 1, 0, 0), ("USER", 1, 1, 0), ("MANAGER", 1, 1, 0), ("ADMIN", 5, 1, 1)],
)
def test_what_each_role_sees(speak, name, profiles, records, settings):
    """PENDING sees only its own profile, USER all records, ADMIN also users and settings."""
    psql = speak(name)

    seen = [count(psql, table) for table in ("profiles", "data_records", "projects", "system_settings")]

    assert seen == [profiles, records, records, settings]
    assert one(psql, "SELECT operations.is_admin()") is (name == "ADMIN")


def changed(psql, statement: str, *values: object) -> int:
    return int(psql.execute(statement, values).rowcount)


@pytest.mark.parametrize(("name", "may"), [("PENDING", 0), ("USER", 1), ("OTHER", 0), ("MANAGER", 0), ("ADMIN", 1)])
def test_a_project_is_changed_by_its_owner_and_by_admins(speak, users, name, may):
    """The same holds for its records."""
    psql = speak(name)

    assert changed(psql, "UPDATE operations.projects SET guidelines = 'g'") == may
    assert changed(psql, 'UPDATE operations.data_records SET "hasBeenReviewed" = true') == may
    if not may:
        with pytest.raises(errors.InsufficientPrivilege), psql.transaction():
            put_record(psql, users["project"], "another")
    assert changed(psql, "SELECT operations.delete_records(%s)", [users["record"]]) == may


def test_nobody_but_an_admin_changes_a_profile(speak, users):
    """A user cannot change their role, or their address, which comes from ``auth.users``."""
    psql = speak("USER")
    assert changed(psql, "UPDATE operations.profiles SET role = 'ADMIN'") == 0
    with pytest.raises(errors.InsufficientPrivilege), psql.transaction():
        psql.execute("UPDATE operations.profiles SET email = 'victim@example.test'")
    with pytest.raises(errors.InsufficientPrivilege), psql.transaction():
        psql.execute("SELECT operations.follow_user(%s, 'victim@example.test')", [users["USER"]])

    psql = speak("ADMIN")
    assert changed(psql, "UPDATE operations.profiles SET role = 'USER' WHERE id = %s", users["PENDING"]) == 1


def test_a_user_rates_for_himself_only(speak, users):
    """The rating must have the user's own id."""
    psql = speak("OTHER")
    rate(psql, users["record"], str(users["OTHER"]))

    with pytest.raises(errors.InsufficientPrivilege):
        rate(psql, users["record"], str(users["USER"]))


def test_a_user_analyses_any_project_and_ingests_into_his_own(speak, users):
    """All users may read; only the owner may write."""
    psql = speak("OTHER")
    psql.execute("SELECT operations.enqueue_analytics(%s)", [users["project"]])

    with pytest.raises(errors.InsufficientPrivilege):
        psql.execute("SELECT operations.enqueue_ingest(%s, 'TASK', 'content')", [users["project"]])


def test_the_owner_ingests_through_the_sql_door(speak, users):
    """A service acts for the owner."""
    psql = speak("USER")

    psql.execute("SELECT operations.enqueue_ingest(%s, 'TASK', 'content')", [users["project"]])

    assert count(psql, "ingest_jobs") == 1
