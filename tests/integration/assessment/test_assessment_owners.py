"""Names belong to owners: two users can have an assessment of the same name, and operators name the owner."""

import re
import uuid

import psycopg
import pytest
from psycopg import errors

from tests.support.assessment_services import (
    ALICE,
    BOB,
    Connection,
    Speak,
    create,
    create_everywhere,
    finish,
    one,
    refused,
)
from tests.support.paths import ROOT

NO_ACTOR = "gristmill.user_id must be set: a service acts for one user, got nothing"


def test_the_same_name_is_another_assessment_for_each_owner(
    alice: Connection, bob: Connection, psql: Connection
) -> None:
    """Neither owner sees the other's assessment or learns that it exists."""
    hers, his = create(alice, secret="hers"), create(bob, secret="his")
    theirs = one(psql, "SELECT assessments.create_assessment('a-1', '{\"secret\": \"theirs\"}')")

    assert len({hers, his, theirs}) == 3
    assert create(alice, secret="hers") == hers
    assert one(bob, "SELECT request_data FROM assessment_states") == {"secret": "his"}
    owners = psql.execute("SELECT owner_id FROM assessments.assessment_states ORDER BY owner_id NULLS FIRST").fetchall()
    assert [row["owner_id"] for row in owners] == [None, BOB, ALICE]


def test_another_owners_assessment_does_not_exist(alice: Connection, bob: Connection) -> None:
    """Bob gets the same answers as for a name that nobody uses."""
    create_everywhere(alice, "hers")
    calls = {
        "update": "SELECT update_assessment_state(%s, 'cancelled', 1)",
        "put": 'SELECT put_cached_state(%s, \'{"state": "forged"}\', 600)',
        "get": "SELECT get_cached_state(%s)",
        "job_of": "SELECT job_of(%s)",
        "metrics": "SELECT count(*) FROM assessment_metrics WHERE assessment_id = %s",
        "audit": "SELECT count(*) FROM assessment_state_audit WHERE assessment_id = %s",
    }

    def heard(name: str) -> dict[str, object]:
        answers: dict[str, object] = {}
        for call, statement in calls.items():
            try:
                answers[call] = one(bob, statement, name)
            except psycopg.Error as error:
                answers[call] = (error.sqlstate, str(error.diag.message_primary).replace(name, "…"))
        return answers

    assert heard("hers") == heard("nobodys")
    assert one(alice, "SELECT get_cached_state('hers')") == {"state": "pending"}
    assert one(alice, "SELECT state::text FROM assessment_states") == "pending"


def test_measuring_under_anothers_name_measures_ones_own(alice: Connection, bob: Connection) -> None:
    """The measurement belongs to Bob, and Alice does not see it."""
    create_everywhere(alice)
    bob.execute("INSERT INTO assessment_metrics (assessment_id, metric_type, metric_value) VALUES ('a-1', 'lie', 1)")

    assert one(alice, "SELECT count(*) FROM assessment_metrics WHERE metric_type = 'lie'") == 0
    assert one(bob, "SELECT owner_id FROM assessment_metrics") == BOB


def test_what_the_database_measures_and_retires_belongs_to_the_assessments_owner(
    alice: Connection, psql: Connection
) -> None:
    """This also holds if a worker or an operator ends or deletes it."""
    create(alice)
    psql.execute("SELECT assessments.update_assessment_state('a-1', 'processing', 1)")
    psql.execute("SELECT assessments.update_assessment_state('a-1', 'failed', 2, p_error_message => 'boom')")
    psql.execute("DELETE FROM assessments.assessment_states")

    measured = alice.execute("SELECT metric_type FROM assessment_metrics ORDER BY 1").fetchall()
    assert [row["metric_type"] for row in measured] == ["error_count", "processing_time"]
    assert one(alice, "SELECT count(*) FROM retired_assessments") == 1
    assert one(alice, "SELECT count(*) FROM assessment_state_audit") == 3


# ── operators and names ─────────────────────────────────────────────────────────────────────────────────────────────


def test_an_operator_who_names_what_several_owners_have_is_asked_whose(
    alice: Connection, bob: Connection, psql: Connection
) -> None:
    """The refusal is one clear line. With an owner, the operator acts for that owner only."""
    create(alice)
    create(bob)

    with refused(errors.CardinalityViolation, "assessment 'a-1' belongs to several owners: say whose with gristmill"):
        psql.execute("SELECT assessments.update_assessment_state('a-1', 'cancelled', 1)")
    with psql.transaction():
        psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(BOB)])
        psql.execute("SELECT assessments.update_assessment_state('a-1', 'cancelled', 1)")

    assert one(alice, "SELECT state::text FROM assessment_states") == "pending"
    assert one(bob, "SELECT state::text FROM assessment_states") == "cancelled"


def test_an_operators_own_assessment_stays_reachable_whoever_takes_its_name(
    alice: Connection, bob: Connection, psql: Connection
) -> None:
    """No tenant can hide an operator's assessment. If only one owner has a name, the owner need not be named."""
    psql.execute("SELECT assessments.create_assessment('a-1', '{}')")
    create(alice)
    create(bob)
    create(alice, "only hers")

    psql.execute("SELECT assessments.update_assessment_state('a-1', 'cancelled', 1)")
    psql.execute("SELECT assessments.update_assessment_state('only hers', 'cancelled', 1)")

    states = psql.execute("SELECT owner_id, state::text FROM assessments.assessment_states WHERE assessment_id = 'a-1'")
    assert {row["owner_id"]: row["state"] for row in states} == {None: "cancelled", ALICE: "pending", BOB: "pending"}


def test_a_cleanup_for_one_owner_leaves_the_others_alone(alice: Connection, bob: Connection, psql: Connection) -> None:
    """Operators clean up everything, or the assessments of one owner; services may not clean up."""
    for connection in (alice, bob):
        create(connection)
        finish(connection)
    with psql.transaction():
        psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(BOB)])
        assert one(psql, "SELECT assessments.cleanup_old_assessments(0)") == 1
    with refused(errors.InsufficientPrivilege):
        alice.execute("SELECT cleanup_old_assessments(0)")

    assert one(alice, "SELECT count(*) FROM assessment_states") == 1
    assert one(psql, "SELECT assessments.cleanup_old_assessments(0)") == 1


def test_what_existed_before_owners_is_given_to_one_as_the_page_says(speak: Speak, psql: Connection) -> None:
    """The statements of the page also move its history, retired names and measurements, and enable the guard again."""
    page = (ROOT / "docs" / "assessments.md").read_text()
    statements = next(block for block in re.findall(r"```sql\n(.*?)```", page, re.DOTALL) if "DISABLE TRIGGER" in block)
    owner = uuid.UUID(re.findall(r"owner_id = '([0-9a-f-]+)'", statements)[0])
    for name in ("acme-1", "acme-2", "other"):
        psql.execute("SELECT assessments.create_assessment(%s, '{}')", [name])
        psql.execute("SELECT assessments.update_assessment_state(%s, 'processing', 1)", [name])
        psql.execute("SELECT assessments.update_assessment_state(%s, 'cancelled', 2)", [name])
    psql.execute("DELETE FROM assessments.assessment_states WHERE assessment_id = 'acme-2'")

    psql.execute(statements)

    service = speak(owner)
    assert [row["assessment_id"] for row in service.execute("SELECT * FROM assessment_states")] == ["acme-1"]
    for table in ("assessment_state_audit", "assessment_metrics"):
        seen = service.execute(f"SELECT DISTINCT assessment_id AS name FROM {table} ORDER BY 1").fetchall()
        assert [row["name"] for row in seen] == ["acme-1", "acme-2"]
    with refused(errors.CheckViolation, "version must grow by one"):
        psql.execute("UPDATE assessments.assessment_states SET owner_id = NULL WHERE assessment_id = 'acme-1'")


# ── nobody to act for ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT create_assessment('a-1', '{}')",
        "SELECT update_assessment_state('a-1', 'cancelled', 1)",
        "SELECT put_cached_state('a-1', '{}')",
        "SELECT get_cached_state('a-1')",
        "SELECT job_of('a-1')",
        "INSERT INTO assessment_states (assessment_id, request_data) VALUES ('a-1', '{}')",
        "INSERT INTO assessment_metrics (assessment_id, metric_type, metric_value) VALUES ('a-1', 'x', 1)",
    ],
)
def test_a_service_that_acts_for_nobody_is_refused(speak: Speak, psql: Connection, statement: str) -> None:
    """The refusal is one line, and no row without an owner is written."""
    with refused(errors.NullValueNotAllowed, NO_ACTOR):
        speak(None).execute(statement)

    assert one(psql, "SELECT count(*) FROM assessments.assessment_states") == 0
    assert one(psql, "SELECT count(*) FROM assessments.assessment_metrics") == 0
