"""A hostile tenant at the SQL door: it gets nothing that its rights do not give it, and learns nothing of others."""

import uuid
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

MANY = "SELECT id, created FROM runtime.enqueue_many(%s, %s)"


@pytest.fixture
def users(psql):
    """Two users, each with a profile and a project."""
    found: dict[Any, Any] = {}
    for name in ("alice", "bob"):
        user = psql.execute(
            "INSERT INTO auth.users (email) VALUES (%s) RETURNING id", [f"{name}@example.test"]
        ).fetchone()["id"]
        psql.execute("UPDATE operations.profiles SET role = 'USER' WHERE id = %s", [user])
        insert = "INSERT INTO scoring.profiles (name, owner_id) VALUES (%s, %s) RETURNING id"
        found[name, "profile"] = psql.execute(insert, [name, user]).fetchone()["id"]
        insert = 'INSERT INTO operations.projects (name, "ownerId") VALUES (%s, %s) RETURNING id'
        found[name, "project"] = psql.execute(insert, [name, user]).fetchone()["id"]
        found[name] = user
    return found


@pytest.fixture
def speak(psql, users):
    """Act as a service for a user until the test ends; everything is rolled back."""
    with psql.transaction(force_rollback=True):

        def speak(name):
            psql.execute("RESET ROLE")
            psql.execute("SET LOCAL ROLE gristmill_service")
            psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(users[name])])

        yield speak


def score(users, name, **options):
    return Jsonb([{"payload": {"profile_id": str(users[name, "profile"]), "prompt": "x"}, **options}])


def refused(psql, *call):
    with pytest.raises(psycopg.Error) as caught, psql.transaction():
        psql.execute(*call)
    return caught.value.sqlstate, str(caught.value.diag.message_primary)


def test_a_job_about_anothers_thing_is_refused_like_one_about_nothing(psql, users, speak):
    """The answer is the same, letter by letter, apart from what the caller said itself."""
    speak("alice")

    anothers = refused(psql, MANY, ["scoring.score", score(users, "bob")])
    nothing = Jsonb([{"payload": {"profile_id": str(uuid.uuid4()), "prompt": "x"}}])

    assert anothers == refused(psql, MANY, ["scoring.score", nothing])
    assert anothers == ("MI004", "payload must refer to what the acting user has and may use")


@pytest.mark.parametrize(("stage", "thing", "field"), [
    ("scoring.score", "profile", "profile_id"),
    ("analytics.align", "project", "project_id"),
    ("vectorization.embed", "project", "project_id"),
])  # fmt: skip
def test_equal_keys_of_two_tenants_never_meet(  # noqa: PLR0917 - pytest passes them by name
    psql, users, speak, stage, thing, field
):
    """Each gets a job of its own, also after the other's failed, and a rerun takes no key of another's job."""
    more = {"scoring.score": {"prompt": "x"}, "vectorization.embed": {"type": "TASK"}}.get(stage, {})
    jobs: dict[str, uuid.UUID] = {}
    for options in ({}, {"on_failed": "rerun"}):
        for name in ("alice", "bob"):
            speak(name)
            job = {"payload": {field: str(users[name, thing]), **more}, "idempotency_key": "k", **options}
            row = psql.execute(MANY, [stage, Jsonb([job])]).fetchone()
            assert row["created"] == (name not in jobs or bool(options))
            if options:
                assert row["id"] != jobs[name]
            jobs[name] = row["id"]
            assert psql.execute("SELECT runtime.cancel(%s) AS done", [row["id"]]).fetchone()["done"]
    assert jobs["alice"] != jobs["bob"]


def test_a_tenant_takes_no_key_from_a_job_of_another(psql, users, speak):
    """Not even by calling the function behind the door."""
    speak("bob")
    job = psql.execute(MANY, ["scoring.score", score(users, "bob", idempotency_key="k")]).fetchone()["id"]
    assert psql.execute("SELECT runtime.cancel(%s) AS done", [job]).fetchone()["done"]
    release = "SELECT runtime.release_keys('scoring.scoring_jobs', ARRAY[%s::uuid]) AS n"

    speak("alice")
    assert psql.execute(release, [job]).fetchone()["n"] == 0
    speak("bob")
    assert psql.execute(release, [job]).fetchone()["n"] == 1


@pytest.mark.parametrize("table", ["scoring.profiles", "pg_authid", "x; DROP TABLE y", "", None])
def test_only_job_tables_have_keys(psql, users, speak, table):
    """The name of a table is never run as SQL."""
    speak("alice")

    state, line = refused(psql, "SELECT runtime.release_keys(%s, '{}')", [table])

    assert state == "22023"
    assert line.startswith("table must be one of jobs")


@pytest.mark.parametrize("name", ["'; DROP TABLE scoring.profiles; --", 'a" = 1)', "$1", "%s", "%I", "\\"])
def test_a_name_that_looks_like_sql_is_a_name(psql, users, speak, name):
    """In the stage, a member of the job, a field and a key."""
    speak("alice")

    assert refused(psql, MANY, [name, Jsonb([])])[0] == "MI003"
    assert refused(psql, MANY, ["scoring.score", Jsonb([{"payload": {}, name: 1}])])[0] == "MI001"
    assert refused(psql, MANY, ["scoring.score", Jsonb([{"payload": {name: 1}}])])[0] == "MI001"
    row = psql.execute(MANY, ["scoring.score", score(users, "alice", idempotency_key=name)]).fetchone()
    assert row["created"]


def test_a_column_of_the_kernel_is_no_field(psql, users, speak):
    """Neither in the payload nor beside it, nor by the functions behind the door."""
    speak("alice")
    profile = str(users["alice", "profile"])

    for column, value in (
        ("status", "completed"),
        ("owner_id", str(users["bob"])),
        ("max_retries", 99),
        ("id", profile),
    ):
        payload = {"profile_id": profile, "prompt": "x"}
        assert refused(psql, MANY, ["scoring.score", Jsonb([{"payload": {**payload, column: value}}])])[0] == "MI001"
        assert refused(psql, MANY, ["scoring.score", Jsonb([{"payload": payload, column: value}])])[0] == "MI001"
        row = Jsonb([{**payload, "idempotency_key": None, column: value}])
        state, _ = refused(psql, "SELECT * FROM runtime.put_jobs('scoring.score', %s, '{false}')", [row])
        assert state == "42501"


def test_jobs_of_others_are_not_seen(psql, users, speak):
    """Neither their status nor their result nor the reason why they do not exist for the caller."""
    speak("bob")
    job = psql.execute(MANY, ["scoring.score", score(users, "bob")]).fetchone()["id"]
    speak("alice")

    for id_ in (job, uuid.uuid4()):
        assert psql.execute("SELECT * FROM runtime.status(%s)", [id_]).fetchall() == []
        assert psql.execute("SELECT runtime.result(%s) AS r", [id_]).fetchone()["r"] is None


def test_without_a_user_nothing_is_enqueued(psql, users, speak):
    speak("alice")
    psql.execute("SELECT set_config('gristmill.user_id', '', true)")

    assert refused(psql, MANY, ["scoring.score", score(users, "alice")])[0] == "MI004"


def test_the_public_calls_nothing_of_the_door(psql):
    """A login that can only connect has no right here."""
    found = psql.execute(
        """SELECT p.oid::regprocedure::text AS name FROM pg_proc AS p
            WHERE p.pronamespace = 'runtime'::regnamespace
              AND EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) WHERE grantee = 0)
              AND p.proname ~ '(enqueue|repeat|rerun|release|status|result|problem|quoted|put_jobs|expression|plain)'"""
    ).fetchall()

    assert found == []
