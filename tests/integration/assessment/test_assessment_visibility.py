"""The assessments, histories and measurements of one user are invisible to other services."""

import uuid

import pytest
from psycopg import errors

from tests.support.assessment_services import ALICE, Connection, create, create_everywhere, finish, one, refused

RELATIONS = """
    SELECT c.oid::regclass::text AS name FROM pg_class AS c
     WHERE c.relnamespace = 'assessments'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY 1
"""


@pytest.fixture
def relations(psql: Connection) -> list[str]:
    """Every table and view of the schema, including those of later revisions."""
    return [row["name"] for row in psql.execute(RELATIONS).fetchall()]


def test_no_table_and_no_view_shows_anything_of_another_owner(
    alice: Connection, bob: Connection, psql: Connection, relations: list[str]
) -> None:
    """Alice has rows in each relation. Bob sees none of them, and neither does a service that acts for no user."""
    create_everywhere(alice)
    create_everywhere(alice, "gone")
    finish(alice)
    finish(alice, "gone")
    create(alice, "waiting")
    alice.execute("SELECT put_cached_state('waiting', '{}', 600)")
    psql.execute("DELETE FROM assessments.assessment_states WHERE assessment_id = 'gone'")

    seen = {name: (one(alice, f"SELECT count(*) FROM {name}"), one(bob, f"SELECT count(*) FROM {name}"))
            for name in relations}  # fmt: skip

    assert {name for name, (hers, _) in seen.items() if not hers} == set()
    assert {name for name, (_, his) in seen.items() if his} == set()
    bob.execute("SELECT set_config('gristmill.user_id', '', false)")
    assert {name for name in relations if one(bob, f"SELECT count(*) FROM {name}")} == set()
    assert len(relations) >= 9


def test_operators_see_everything(alice: Connection, bob: Connection, psql: Connection, relations: list[str]) -> None:
    """The owner of the tables sees everything. So do members of gristmill_worker, which do not inherit BYPASSRLS."""
    for connection in (alice, bob):
        create_everywhere(connection)
    psql.execute("SELECT assessments.create_assessment('a-1', '{}')")

    counts = {"assessment_states": 3, "assessment_metrics": 2, "assessment_state_cache": 2, "assessment_state_audit": 3}
    for role in ("gristmill", "gristmill_worker"):
        psql.execute(f"SET ROLE {role}")
        found = {name: one(psql, f"SELECT count(*) FROM assessments.{name}") for name in counts}
        assert found == counts
    psql.execute("RESET ROLE")
    assert set(counts) <= {name.removeprefix("assessments.") for name in relations}


def test_a_member_of_the_workers_role_sees_everything_too(alice: Connection, psql: Connection) -> None:
    """The worker's own login is such a member."""
    create_everywhere(alice)
    with psql.transaction(force_rollback=True):
        psql.execute("CREATE ROLE a_worker IN ROLE gristmill_worker; SET LOCAL ROLE a_worker")
        for name in ("assessment_states", "assessment_metrics", "assessment_state_cache", "assessment_state_audit"):
            assert one(psql, f"SELECT count(*) FROM assessments.{name}") == 1


def test_a_function_in_a_condition_sees_no_row_of_others(alice: Connection, bob: Connection, psql: Connection) -> None:
    """The planner could evaluate a cheap function before the policy, and the function could reveal its arguments."""
    create_everywhere(alice)
    psql.execute("""
        CREATE SCHEMA IF NOT EXISTS spy; GRANT USAGE ON SCHEMA spy TO gristmill_service;
        CREATE OR REPLACE FUNCTION spy.tell(v text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
          $$ BEGIN RAISE NOTICE 'saw %', v; RETURN true; END $$;
    """)
    told: list[str] = []
    bob.add_notice_handler(lambda notice: told.append(str(notice.message_primary)))

    for name in ("assessment_state_audit", "assessment_states", "assessment_metrics", "retired_assessments",
                 "assessment_state_cache", "active_assessments", "assessment_queue"):  # fmt: skip
        bob.execute(f"SELECT * FROM {name} WHERE spy.tell(assessment_id)")

    psql.execute("DROP SCHEMA spy CASCADE")
    assert told == []


# ── ids of other tables ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def scoring_job(psql: Connection) -> uuid.UUID:
    """A scoring job without an owner, with a history of scoring states."""
    profile = one(psql, "INSERT INTO scoring.profiles (name) VALUES ('p') RETURNING id")
    job_id: uuid.UUID = one(psql, "SELECT scoring.enqueue_score(%s, 'secret prompt')", profile)
    psql.execute("SELECT set_config('gristmill.change_reason', 'secret reason', false)")
    psql.execute("SELECT runtime.cancel(%s, 'secret reason')", [job_id])
    psql.execute("RESET gristmill.change_reason")
    return job_id


def test_an_assessment_with_the_id_of_a_scoring_job_shows_none_of_its_history(
    alice: Connection, psql: Connection, scoring_job: uuid.UUID
) -> None:
    """A service cannot set an id. If an operator did, the stage separates the two histories."""
    with refused(errors.InsufficientPrivilege):
        alice.execute("INSERT INTO assessment_states (id, assessment_id, request_data) VALUES (%s, 'x', '{}')",
                      [scoring_job])  # fmt: skip
    psql.execute("INSERT INTO assessments.assessment_states (id, assessment_id, request_data, owner_id) "
                 "VALUES (%s, 'x', '{}', %s)", [scoring_job, ALICE])  # fmt: skip

    trail = alice.execute("SELECT new_state::text AS state, change_reason FROM assessment_state_audit").fetchall()
    assert trail == [{"state": "pending", "change_reason": None}]
    psql.execute("DELETE FROM assessments.assessment_states")
    assert [row["change_reason"] for row in alice.execute("SELECT * FROM assessment_state_audit")] == [None]


@pytest.mark.parametrize("state", ["pending", "completed"])
def test_the_trail_filtered_by_state_passes_over_other_tables_states(
    alice: Connection, psql: Connection, scoring_job: uuid.UUID, state: str
) -> None:
    """QUEUED_FOR_VEC of ingestion is not a state of an assessment, but the planner may evaluate it first."""
    project = one(psql, "INSERT INTO operations.projects (name) VALUES ('p') RETURNING id")
    psql.execute("SELECT operations.enqueue_ingest(%s, 'TASK', 'content')", [project])
    create(alice)

    for connection in (alice, psql):
        found = connection.execute(
            "SELECT assessment_id FROM assessments.assessment_state_audit WHERE new_state = %s AND old_state IS NULL",
            [state],
        ).fetchall()
        assert [row["assessment_id"] for row in found] == (["a-1"] if state == "pending" else [])
