"""The recipe of docs/enqueue.md for the role of a service, run as it stands there."""

import re
import uuid

import psycopg
import pytest
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "enqueue.md").read_text(encoding="utf-8")
CALL = "SELECT runtime.enqueue('scoring.score', jsonb_build_object('profile_id', %s::uuid, 'prompt', 'x'))"


@pytest.fixture
def service(psql, database_url):
    """A connection of a new role, made by the statements of the page."""
    found = re.search(r"### A role for your service\n.*?```sql\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    name, password = f"recipe_{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    for statement in found[1].strip().split(";\n"):
        psql.execute(statement.replace("billing", name).replace("choose one", password))
    try:
        info = {**conninfo_to_dict(database_url), "user": name, "password": password}
        with psycopg.connect(make_conninfo(**{key: str(value) for key, value in info.items()})) as connection:
            yield connection
    finally:
        psql.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))


def profile(psql, user):
    insert = "INSERT INTO scoring.profiles (name, owner_id) VALUES ('Ada', %s) RETURNING id"
    return psql.execute(insert, [user]).fetchone()["id"]


def test_the_role_enqueues_cancels_and_reads_for_its_user(psql, service):
    user = uuid.uuid4()
    service.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(user)])

    [job] = service.execute(CALL, [profile(psql, user)]).fetchone()

    assert service.execute("SELECT status FROM runtime.status(%s)", [job]).fetchone() == ("pending",)
    assert service.execute("SELECT count(*) FROM runtime.transitions WHERE job_id = %s", [job]).fetchone() == (1,)
    assert service.execute("SELECT runtime.cancel(%s)", [job]).fetchone() == (True,)
    assert service.execute("SHOW statement_timeout").fetchone() == ("30s",)


def test_the_role_has_no_part_in_what_is_of_another_user(psql, service):
    owner = uuid.uuid4()
    theirs = profile(psql, owner)
    job = psql.execute("SELECT scoring.enqueue_score(%s, 'x') AS id", [theirs]).fetchone()["id"]
    service.execute("SELECT set_config('gristmill.user_id', %s, false)", [str(uuid.uuid4())])

    assert service.execute("SELECT * FROM runtime.status(%s)", [job]).fetchall() == []
    assert service.execute("SELECT runtime.cancel(%s)", [job]).fetchone() == (False,)
    service.commit()
    with pytest.raises(psycopg.Error) as caught:
        service.execute(CALL, [theirs])
    assert caught.value.sqlstate == "MI004"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE scoring.scoring_jobs SET priority = 1",
        "DELETE FROM scoring.scoring_jobs",
        "UPDATE runtime.stages SET sql_door = NULL",
        "SELECT * FROM runtime.lifecycles",
        "CREATE TABLE scoring.mine ()",
        "CREATE FUNCTION runtime.mine() RETURNS int LANGUAGE sql RETURN 1",
        "SELECT runtime.grant_process_rights()",
        "SET ROLE gristmill_worker",
    ],
)
def test_the_role_may_do_nothing_else(service, statement):
    with pytest.raises(errors.InsufficientPrivilege):
        service.execute(statement)
