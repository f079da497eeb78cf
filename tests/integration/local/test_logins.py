"""`gristmill migrate --roles`: a login for each kind of process, made once, with only the rights that it needs."""

import stat
from contextlib import closing

import psycopg
import pytest
from psycopg import errors
from pydantic import SecretStr
from sqlalchemy import make_url

from config.settings import Settings
from local.logins import invalid_passwords, known_urls, make_logins
from local.system import _logins
from tests.support.command_line import as_json
from workers.runtime.operate.logins import GROUPS
from workers.runtime.refusals import Failed
from workers.runtime.store.processes import try_to_lead
from workers.runtime.store.tables import job_table

DENIED = {
    "worker": (
        "UPDATE runtime.transitions SET changed_by = 'nobody'",
        "DELETE FROM runtime.transitions",
        "TRUNCATE runtime.transitions",
        "UPDATE runtime.transitions_default SET changed_by = 'nobody'",
        "DELETE FROM runtime.transitions_default",
        "SELECT runtime.drop_transition_partitions('400 days')",
        "SELECT runtime.ensure_transition_partitions(1)",
        "DROP TABLE runtime.transitions_default",
        "BEGIN; LOCK TABLE runtime.transitions IN ACCESS EXCLUSIVE MODE",
        "INSERT INTO runtime.dispatcher (id, term, expires_at) VALUES (1, 1, 'infinity')",
        "UPDATE runtime.dispatcher SET expires_at = 'infinity'",
        "SELECT nextval('runtime.dispatcher_terms')",
        "UPDATE runtime.schedules SET enabled = false",
        "INSERT INTO runtime.ticks (schedule, scheduled_for, fired_by) VALUES ('a', now(), 'me')",
        "UPDATE runtime.stages SET paused_at = now()",
        "DELETE FROM runtime.lifecycles",
        "TABLE runtime.actor_keys",
        "CREATE TABLE runtime.mine ()",
        "CREATE ROLE somebody",
        "ALTER TABLE scoring.scoring_jobs DISABLE TRIGGER guard_update",
        "SET session_replication_role = replica",
    ),
    "dispatcher": (
        "UPDATE scoring.scoring_jobs SET prompt = 'another'",
        "UPDATE scoring.scoring_jobs SET parsed_score = '{}'",
        "UPDATE operations.ingest_jobs SET mapping = '{}'",
        "DELETE FROM scoring.scoring_jobs",
        "BEGIN; LOCK TABLE scoring.scoring_jobs IN ACCESS EXCLUSIVE MODE",
        "TABLE scoring.profiles",
        "TABLE operations.system_settings",
        "DELETE FROM runtime.transitions",
        "DELETE FROM runtime.dispatcher",
        "UPDATE runtime.stages SET paused_at = NULL",
        "TABLE runtime.actor_keys",
    ),
    "gateway": ("TABLE runtime.transitions_default", "UPDATE runtime.dispatcher SET leader = 'me'"),
    "service": ("TABLE runtime.dispatcher", "UPDATE runtime.workers SET slots = 0", "TABLE runtime.schedules"),
    "operator": (
        "DELETE FROM runtime.transitions",
        "TABLE runtime.actor_keys",
        "UPDATE runtime.security SET strict = false",
    ),
}


@pytest.fixture
def logins(database_url, tmp_path):
    """Every login on the test's database, by kind. Other databases of the server may have left the logins."""
    return {one.kind: one for one in make_logins(database_url, tmp_path / "roles", new_passwords=True)}


def asked(url: str, statement: str) -> object:
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        row = connection.execute(statement.encode()).fetchone()
    return row[0] if row else None


def test_a_login_for_each_kind_of_process(logins, tmp_path):
    """The logins are ordinary ones. Their URLs are in files that only their owner may read."""
    assert logins.keys() == GROUPS.keys()
    for kind, login in logins.items():
        assert asked(login.url, "SELECT session_user") == login.role
        assert asked(login.url, f"SELECT pg_has_role(session_user, '{GROUPS[kind]}', 'USAGE')") is True
        rights = "rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication"
        assert asked(login.url, f"SELECT {rights} FROM pg_roles WHERE rolname = session_user") is False
    files = list((tmp_path / "roles").iterdir())
    assert {file.name for file in files} == {f"database_url_{kind}" for kind in GROUPS}
    assert {stat.S_IMODE(file.stat().st_mode) for file in [*files, tmp_path / "roles"]} == {0o600, 0o700}


def test_a_second_run_changes_nothing(logins, database_url, tmp_path, psql):
    """No password and no file changes, so running processes stay connected and may connect again."""
    passwords = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname LIKE 'gristmill_%%_login' ORDER BY 1"
    before = psql.execute(passwords).fetchall()

    again = make_logins(database_url, tmp_path / "roles")

    assert [one.made for one in again] == [False] * len(GROUPS)
    assert {one.kind: one.url for one in again} == {kind: one.url for kind, one in logins.items()}
    assert psql.execute(passwords).fetchall() == before


def test_a_login_whose_file_is_missing_keeps_its_password(logins, database_url, tmp_path):
    """Its processes may be connected. The login is reported with its problem, and nothing is written."""
    (tmp_path / "roles" / "database_url_worker").unlink()

    found = {one.kind: one for one in make_logins(database_url, tmp_path / "roles")}

    assert [kind for kind, one in found.items() if one.problem] == ["worker"]
    assert "login gristmill_worker_login exists and" in str(found["worker"].problem)
    assert not (tmp_path / "roles" / "database_url_worker").exists()
    assert asked(logins["worker"].url, "SELECT session_user") == "gristmill_worker_login"


def test_another_folder_takes_no_login_away(logins, database_url, tmp_path):
    """If somebody runs the command with another --urls, all five logins keep their passwords."""
    found = make_logins(database_url, tmp_path / "elsewhere")

    assert [one.made for one in found] == [False] * len(GROUPS)
    assert all(one.problem for one in found)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert {asked(one.url, "SELECT session_user") for one in logins.values()} == {one.role for one in logins.values()}


def test_only_logins_without_a_file_get_new_passwords(logins, database_url, tmp_path):
    """The other logins keep their passwords. The old URL is not valid any more."""
    (tmp_path / "roles" / "database_url_worker").unlink()

    made = {one.kind: one for one in make_logins(database_url, tmp_path / "roles", new_passwords=True)}

    assert [kind for kind, one in made.items() if one.made] == ["worker"]
    assert asked(made["worker"].url, "SELECT session_user") == "gristmill_worker_login"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        asked(logins["worker"].url, "SELECT 1")


def test_a_password_that_is_no_longer_valid_is_reported(logins, database_url, tmp_path):
    """The file and the login stay unchanged until a person asks for a new password."""
    make_logins(database_url, tmp_path / "others", new_passwords=True)

    found = make_logins(database_url, tmp_path / "roles")
    tried, wrong = invalid_passwords(database_url, tmp_path / "roles")

    assert all("is not valid" in str(one.problem) for one in found)
    assert (tried, len(wrong)) == (len(GROUPS), len(GROUPS))
    assert f"password of gristmill_worker_login in {tmp_path}/roles/database_url_worker is no longer valid" in wrong
    assert invalid_passwords(database_url, tmp_path / "others") == (len(GROUPS), [])
    assert logins.keys() == GROUPS.keys()


def test_an_existing_file_decides_the_login_and_its_password(database_url, tmp_path):
    """`make secrets` writes such files for Compose. No file is overwritten."""
    given = (
        make_url(database_url).set(username="given_worker", password="0f" * 24).render_as_string(hide_password=False)
    )
    (tmp_path / "database_url_worker").write_text(given)
    (tmp_path / "database_url_worker").chmod(0o400)

    [worker] = [one for one in make_logins(database_url, tmp_path) if one.kind == "worker"]

    assert (worker.role, worker.made) == ("given_worker", True)
    assert asked(given, "SELECT session_user") == "given_worker"
    assert (tmp_path / "database_url_worker").read_text() == given


def test_the_file_of_an_embedded_server_with_another_port_is_corrected(logins, database_url, tmp_path):
    """The embedded server gets another port if its own is taken. The password stays, because it is valid here."""
    file = tmp_path / "roles" / "database_url_worker"
    moved = make_url(logins["worker"].url).set(port=1)
    file.write_text(moved.render_as_string(hide_password=False))
    assert "worker" not in known_urls(database_url, tmp_path / "roles")

    make_logins(database_url, tmp_path / "roles", may_have_moved=True)

    assert file.read_text().strip() == logins["worker"].url
    assert known_urls(database_url, tmp_path / "roles") == {kind: one.url for kind, one in logins.items()}


@pytest.mark.parametrize("change", [{"port": 1}, {"database": "other"}, {"host": "elsewhere.example"}])
@pytest.mark.parametrize("options", [{}, {"new_passwords": True}])
def test_a_file_of_another_server_is_neither_used_nor_changed(logins, database_url, tmp_path, change, options):
    """The file belongs to another system, so it stays also if new passwords are requested."""
    file = tmp_path / "roles" / "database_url_worker"
    other = make_url(logins["worker"].url).set(**change).render_as_string(hide_password=False)
    file.write_text(other)

    found = {one.kind: one for one in make_logins(database_url, tmp_path / "roles", **options)}

    assert [kind for kind, one in found.items() if one.problem] == ["worker"]
    assert file.read_text() == other
    assert asked(logins["worker"].url, "SELECT session_user") == "gristmill_worker_login"


def test_a_file_of_another_server_is_not_corrected(logins, database_url, tmp_path):
    """Its password is not valid here, so it is for another server and not for another port."""
    file = tmp_path / "roles" / "database_url_worker"
    other = make_url(logins["worker"].url).set(port=1, password="another").render_as_string(hide_password=False)
    file.write_text(other)

    found = {one.kind: one for one in make_logins(database_url, tmp_path / "roles", may_have_moved=True)}

    assert found["worker"].problem
    assert file.read_text() == other


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no url", "cannot be read as a URL of Postgres"),
        ("postgresql://host/db", "must hold a URL with user and password"),
        (b"\xff\xfe", "cannot be read as a URL of Postgres"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(database_url, tmp_path, content, said):
    """The refusal is one line. A superuser may not be the login of a role."""
    file = tmp_path / "database_url_worker"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(Failed, match=said):
        make_logins(database_url, tmp_path)


def test_a_superuser_may_not_be_the_login_of_a_process(database_url, tmp_path):
    """A file with a superuser is refused."""
    (tmp_path / "database_url_worker").write_text(make_url(database_url).render_as_string(hide_password=False))

    with pytest.raises(Failed, match="role 'gristmill' may do more than a worker needs"):
        make_logins(database_url, tmp_path)


def test_a_login_that_may_not_make_roles_is_refused(logins, tmp_path):
    """The refusal is one line that says what to do."""
    with pytest.raises(Failed, match="the login of DATABASE_URL may not make roles"):
        make_logins(logins["operator"].url, tmp_path / "others", new_passwords=True)


@pytest.mark.parametrize(("kind", "statement"), [(kind, one) for kind, denied in DENIED.items() for one in denied])
def test_no_login_has_rights_that_its_process_does_not_need(logins, kind, statement):
    """Only the process that needs it may write history, tickets, schedules and keys."""
    with pytest.raises(errors.InsufficientPrivilege):
        asked(logins[kind].url, statement)


@pytest.mark.parametrize(
    ("kind", "command"),
    [("operator", ("security", "status")), ("service", ("errors",)), ("service", ("doctor", "--quick"))],
)
def test_a_missing_right_is_reported_with_the_login_that_has_it(logins, gristmill, monkeypatch, kind, command):
    """A login with few rights is not a broken server. The line says which login to use."""
    monkeypatch.setenv("DATABASE_URL", logins[kind].url)

    code, out, said = gristmill(*command)

    if code:  # if the login has the right, there is no message
        assert "permission denied" in out + said
        assert "use a login that may" in out + said
        assert "start it" not in out + said


async def test_the_dispatchers_login_leads(logins):
    """It leads, and it can see when other sessions of its kind began."""
    async with await psycopg.AsyncConnection.connect(logins["dispatcher"].url, autocommit=True) as one:
        assert await try_to_lead(one, name="one")
        async with await psycopg.AsyncConnection.connect(logins["dispatcher"].url, autocommit=True) as other:
            assert await try_to_lead(other, name="other") is None


@pytest.mark.parametrize("age", ["-2 months", "0", "23 hours", "30 days"])
def test_nobody_drops_the_current_month(logins, age):
    """The last month is not dropped either, whatever age beat asks for."""
    with pytest.raises(errors.InvalidParameterValue, match="history must be kept for 31 days or more, got"):
        asked(logins["dispatcher"].url, f"SELECT runtime.drop_transition_partitions('{age}')")


def test_the_dispatcher_may_write_what_its_statements_write(psql, registry):
    """This holds for every job table of this release, whatever the names of its columns are."""
    written = ["status", "version", "retry_count", "due_at", "progress", "dispatched_at", "lease_owner", "deadline_at"]
    written += ["started_at", "completed_at", "updated_at", "error_message", "change_action", "change_reason"]
    for model in {stage.model for stage in registry.values()}:
        table = job_table(model)
        for attribute in written:
            column = table.column[attribute].strip('"')
            [row] = psql.execute(
                "SELECT has_column_privilege('gristmill_dispatcher', %s, %s, 'UPDATE') AS may", [table.label, column]
            )
            assert row["may"], f"{table.label}.{column}"
        [row] = psql.execute("SELECT has_table_privilege('gristmill_dispatcher', %s, 'UPDATE') AS may", [table.label])
        assert not row["may"], table.label


def test_the_command_line_makes_them_in_the_data_folder(gristmill, tmp_path):
    """The output says where they are and shows no password."""
    made = as_json(gristmill, "migrate", "--roles", "--new-passwords")["roles"]

    assert {one["kind"] for one in made} == GROUPS.keys()
    assert {one["file"] for one in made} == {f".gristmill/roles/database_url_{kind}" for kind in GROUPS}
    assert (tmp_path / ".gristmill/roles/database_url_worker").exists()
    assert gristmill("migrate", "--urls", "somewhere")[:2] == (2, "")
    assert gristmill("migrate", "--new-passwords")[:2] == (2, "")


def test_the_command_line_fails_for_logins_whose_passwords_it_does_not_know(gristmill, logins):
    """The exit code is 1. The message has both remedies, and the table names the logins."""
    code, shown, said = gristmill("migrate", "--roles", "--urls", "elsewhere")

    assert code == 1
    assert shown.count("left alone") == len(GROUPS)
    assert "5 of 5 logins were left alone" in said
    assert "--urls" in said
    assert "--new-passwords" in said
    assert asked(logins["worker"].url, "SELECT session_user") == "gristmill_worker_login"


def test_up_uses_the_logins_of_a_given_server_if_there_are_any(logins, database_url, redis_url, tmp_path):
    """Otherwise every role uses the login of DATABASE_URL, and `up` says so."""
    settings = Settings(data_dir=tmp_path, database_url=SecretStr(database_url), redis_url=SecretStr(redis_url))
    said: list[str] = []

    assert _logins(settings, database_url, said.append) == {kind: one.url for kind, one in logins.items()}
    assert said == []

    elsewhere = settings.model_copy(update={"data_dir": tmp_path / "elsewhere"})
    assert _logins(elsewhere, database_url, said.append) == {}
    assert "every role uses the login of DATABASE_URL" in said[0]
