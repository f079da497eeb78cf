"""A tenant acts only for itself: who made and reviewed a record, which keys it uses, what it asked before."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors

from models import load_all
from models.lifecycle import JOB_ATTRIBUTES, Job

Speak = Any


def rows(psql, statement, *values):
    with psql.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        return cursor.execute(statement, values or None).fetchall()


def refused(psql, statement: str, *values: object) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught, psql.transaction():
        psql.execute(statement, values or None)
    return caught.value


@pytest.fixture
def users(psql) -> dict[str, Any]:
    """Two users with a project each."""
    ids: dict[str, Any] = {}
    for name in ("alice", "bob"):
        [(user,)] = rows(psql, "INSERT INTO auth.users (email) VALUES (%s) RETURNING id", f"{name}@example.test")
        psql.execute("UPDATE operations.profiles SET role = 'USER' WHERE id = %s", [user])
        [(project,)] = rows(
            psql, 'INSERT INTO operations.projects (name, "ownerId") VALUES (%s, %s) RETURNING id', name, user
        )
        ids |= {name: user, f"{name}.project": project}
    return ids


@pytest.fixture
def speak(psql, users) -> Iterator[Speak]:
    """Act as a service for a user until the test ends."""
    with psql.transaction(force_rollback=True):

        def speak(name: str) -> None:
            psql.execute("SET LOCAL ROLE gristmill_service")
            psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(users[name])])

        yield speak


RECORD = """INSERT INTO operations.data_records ("projectId", type, source, content) VALUES (%s, 'TASK', 's', %s)
            RETURNING id, "createdById", "createdByName", "createdByEmail" """


def test_a_record_says_who_made_it(psql, users, speak):
    """The database sets it; a value of the client does not count."""
    speak("alice")

    [(_, by, name, email)] = rows(psql, RECORD, users["alice.project"], "c")

    assert (by, name, email) == (str(users["alice"]), None, "alice@example.test")
    for column in ("createdById", "createdByName", "createdByEmail"):
        statement = f"""INSERT INTO operations.data_records ("projectId", type, source, content, "{column}")
                        VALUES (%s, 'TASK', 's', 'd', 'bob')"""
        assert isinstance(refused(psql, statement, users["alice.project"]), errors.InsufficientPrivilege)


def test_a_review_is_signed_by_who_reviews(psql, users, speak):
    """A name from the client does not count; our own processes write the user that they act for."""
    review = 'UPDATE operations.data_records SET "hasBeenReviewed" = true, "reviewedBy" = %s WHERE id = %s'
    signed = 'SELECT "reviewedBy" FROM operations.data_records WHERE id = %s'
    [(record, *_)] = rows(psql, RECORD, users["alice.project"], "c")

    speak("alice")
    psql.execute(review, ["bob", record])
    assert rows(psql, signed, record) == [("alice@example.test",)]

    psql.execute("RESET ROLE")
    psql.execute(review, ["bob", record])
    assert rows(psql, signed, record) == [("bob",)]


@pytest.mark.parametrize("claimed", ["gristmill", "gristmill_operator_login", "postgres", "worker:1", "Ada"])
def test_a_name_that_a_service_gives_itself_is_marked(psql, users, speak, claimed):
    """History distinguishes a role that acted from a name that a service gave."""
    speak("alice")
    psql.execute("SELECT set_config('gristmill.changed_by', %s, true)", [claimed])
    psql.execute("SELECT assessments.create_assessment('a', '{}')")

    found = rows(psql, "SELECT changed_by FROM assessments.assessment_state_audit")

    assert found == [(f"gristmill_service as {claimed}",)]


def test_a_key_of_an_analysis_is_given_by_who_may_change_the_project(psql, users, speak):
    """It belongs to the owner of the project: another user could use it or learn that it is used."""
    speak("bob")
    enqueue = "SELECT operations.enqueue_analytics(%s, p_idempotency_key => %s)"
    insert = 'INSERT INTO operations.analytics_jobs ("projectId", idempotency_key) VALUES (%s, %s)'

    assert "who may change the project" in str(refused(psql, enqueue, users["alice.project"], "k"))
    assert isinstance(refused(psql, insert, users["alice.project"], "k"), errors.InsufficientPrivilege)
    psql.execute(enqueue, [users["alice.project"], None])
    psql.execute(enqueue, [users["bob.project"], "k"])


def test_a_key_of_a_file_with_options_is_another_than_without(psql, users):
    """The function takes no options: a job with options has another payload."""
    enqueue = "SELECT operations.enqueue_ingest(%s, 'TASK', 'content', p_idempotency_key => 'k')"
    psql.execute("SELECT set_config('gristmill.user_id', %s, false)", [str(users["alice"])])
    [(job,)] = rows(psql, enqueue, users["alice.project"])
    assert rows(psql, enqueue, users["alice.project"]) == [(job,)]

    psql.execute("ALTER TABLE operations.ingest_jobs DISABLE TRIGGER gristmill_keep_options")
    psql.execute("""UPDATE operations.ingest_jobs SET options = '{"delimiter": ";"}'""")
    psql.execute("ALTER TABLE operations.ingest_jobs ENABLE TRIGGER gristmill_keep_options")

    assert "another options, got 'k'" in str(refused(psql, enqueue, users["alice.project"]))


FIRST = '{"criteria": ["clear", "short", "clear"], "weights": {"clear": 2, "short": 1}}'
SHRUNK = {
    "fewer items": '{"criteria": ["clear", "short"], "weights": {"clear": 2, "short": 1}}',
    "another order": '{"criteria": ["short", "clear", "clear"], "weights": {"clear": 2, "short": 1}}',
    "an item more": '{"criteria": ["clear", "short", "clear", "kind"], "weights": {"clear": 2, "short": 1}}',
    "fewer within": '{"criteria": ["clear", "short", "clear"], "weights": {"clear": 2}}',
    "more within": '{"criteria": ["clear", "short", "clear"], "weights": {"clear": 2, "short": 1, "kind": 3}}',
    "none": "{}",
}


@pytest.mark.parametrize("later", SHRUNK.values(), ids=SHRUNK)
def test_a_request_gains_members_and_keeps_those_it_has(psql, later):
    """Order, repetition and content of the members stay exactly the same."""
    psql.execute("INSERT INTO assessments.assessment_states (assessment_id, request_data) VALUES ('a', %s)", [FIRST])
    change = "UPDATE assessments.assessment_states SET request_data = %s, version = version + 1"

    assert "may gain keys, not lose or change them" in str(refused(psql, change, later))
    psql.execute(change, [FIRST[:-1] + ', "note": "late"}'])


def test_a_refusal_of_the_function_is_one_line(psql, users, speak):
    """Postgres would add the whole row."""
    speak("alice")
    psql.execute("SELECT assessments.create_assessment('a', '{}')")

    error = refused(psql, "SELECT assessments.update_assessment_state('a', 'cancelled', 1, p_progress => 7)")

    assert isinstance(error, errors.CheckViolation)
    assert error.diag.message_detail is None
    assert "progress" in str(error.diag.message_primary)


# The columns of job tables that are neither payload nor result, and why they may change.
FREE = {
    "operations.ingest_jobs.resumeAt": "where the next run begins",
    "operations.analytics_jobs.resumeAt": "where the next run begins",
    "assessments.assessment_states.assessment_id": "keep_request keeps it",
    "assessments.assessment_states.request_data": "keep_request keeps what it has",
    "assessments.assessment_states.asked_model": "note_asked_model sets it, whatever is written",
    "operations.analytics_jobs.asked_model": "note_asked_model sets it, whatever is written",
    "llm.batches.wait_until": "the kernel's, of a wait",
    "notifications.deliveries.attempts_before": "where the schedule begins again",
}


def test_every_column_of_a_domain_is_kept_by_a_trigger(psql):
    """A payload never changes, and a result not after the end; a new column fails here until it is one or is listed."""
    load_all()
    kept = {
        str(name)
        for (name,) in rows(
            psql,
            """SELECT g.tgrelid::regclass || '.' || a.attname FROM pg_trigger AS g
                 JOIN pg_attribute AS a ON a.attrelid = g.tgrelid AND a.attnum = ANY (g.tgattr)
                WHERE g.tgname LIKE 'gristmill_keep_%%'""",
        )
    }
    domain = {
        f"{model.__table__}.{column.name}"
        for model in Job.__subclasses__()
        if model.__module__.startswith("models.")
        for attribute, column in model.__mapper__.columns.items()
        if attribute not in JOB_ATTRIBUTES
    }

    assert domain - kept == FREE.keys()


def test_the_file_of_an_ingestion_may_go_and_none_comes_in_its_place(psql, users):
    """Uploads are deleted some time after their job."""
    psql.execute("SELECT operations.enqueue_ingest(%s, 'TASK', 'content')", [users["alice.project"]])
    [(other,)] = rows(
        psql,
        """INSERT INTO operations.uploads ("projectId", "fileName", "sizeBytes", sha256)
           VALUES (%s, 'f', 0, '') RETURNING id""",
        users["alice.project"],
    )

    assert "cannot change" in str(refused(psql, 'UPDATE operations.ingest_jobs SET "uploadId" = %s', other))
    assert "cannot change" in str(refused(psql, """UPDATE operations.ingest_jobs SET options = '{"a": 1}'"""))
    psql.execute('UPDATE operations.ingest_jobs SET "uploadId" = NULL')


def test_history_is_kept_as_long_as_its_owner_wrote_down(psql):
    """A role that drops months may ask for a shorter retention, but drops no month within the written one."""
    with psql.transaction(force_rollback=True):
        psql.execute(
            """CREATE TABLE runtime.transitions_2020_01 PARTITION OF runtime.transitions
               FOR VALUES FROM ('2020-01-01Z') TO ('2020-02-01Z')"""
        )
        psql.execute("INSERT INTO runtime.retention (transitions_days) VALUES (36500)")
        drop = "SELECT runtime.drop_transition_partitions('31 days')"
        psql.execute("SET LOCAL ROLE gristmill_dispatcher")
        assert rows(psql, drop) == [([],)]
        assert isinstance(
            refused(psql, "UPDATE runtime.retention SET transitions_days = 31"), errors.InsufficientPrivilege
        )
        psql.execute("RESET ROLE")
        psql.execute("DELETE FROM runtime.retention")
        psql.execute("SET LOCAL ROLE gristmill_dispatcher")
        assert rows(psql, drop) == [(["transitions_2020_01"],)]


def test_migrating_writes_down_how_long_history_is_kept(gristmill, psql, monkeypatch):
    """It writes the setting."""
    monkeypatch.setenv("GRISTMILL_TRANSITIONS_RETENTION_DAYS", "90")

    assert gristmill("migrate")[0] == 0

    assert rows(psql, "SELECT transitions_days FROM runtime.retention") == [(90,)]
