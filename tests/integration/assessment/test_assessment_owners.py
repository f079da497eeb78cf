"""Two tenants and an operator in one database: what a service's role can see, change and learn of others' assessments.

Each test speaks SQL as a service would: a session of a member of ``gristmill_service`` that acts for one user.
"""

import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import errors
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from tests.support.paths import ROOT

ALICE, BOB = uuid.UUID(int=0xA11CE), uuid.UUID(int=0xB0B)
RUNS = 20
NO_ACTOR = "gristmill.user_id must be set: a service acts for one user, got nothing"

Connection = psycopg.Connection[dict[str, Any]]
Speak = Callable[[uuid.UUID | None], Connection]


@pytest.fixture
def speak(database_url: str) -> Iterator[Speak]:
    """Open sessions of services: each acts for one user, or for nobody, and commits each statement."""
    opened: list[Connection] = []

    def as_service(user: uuid.UUID | None) -> Connection:
        connection = psycopg.connect(database_url, autocommit=True, row_factory=dict_row)
        opened.append(connection)
        connection.execute("SET search_path = assessments")
        connection.execute("SELECT set_config('gristmill.user_id', %s, false)", [str(user or "")])
        connection.execute("SET ROLE gristmill_service")
        return connection

    yield as_service
    for connection in opened:
        connection.close()


@pytest.fixture
def alice(speak: Speak) -> Connection:
    return speak(ALICE)


@pytest.fixture
def bob(speak: Speak) -> Connection:
    return speak(BOB)


def one(connection: Connection, statement: str, *values: object) -> Any:
    row = connection.execute(statement, values or None).fetchone()
    return next(iter(row.values())) if row else None


def create(connection: Connection, name: str = "a-1", /, **request: object) -> uuid.UUID:
    created: uuid.UUID = one(connection, "SELECT create_assessment(%s, %s)", name, Jsonb(request))
    return created


def live(connection: Connection, name: str = "a-1") -> uuid.UUID:
    """Bring an assessment through a whole life that leaves a row in every table."""
    job_id = create(connection, name, secret=name)
    connection.execute('SELECT put_cached_state(%s, \'{"state": "pending"}\', 600)', [name])
    connection.execute(
        "INSERT INTO assessment_metrics (assessment_id, metric_type, metric_value) VALUES (%s, 'tokens', 9)", [name]
    )
    return job_id


def finish(connection: Connection, name: str = "a-1") -> None:
    connection.execute("SELECT update_assessment_state(%s, 'processing', 1)", [name])
    connection.execute("SELECT update_assessment_state(%s, 'failed', 2, p_error_message => 'boom')", [name])


@contextmanager
def refused(error: type[psycopg.Error], line: str = "") -> Iterator[None]:
    with pytest.raises(error) as raised:
        yield
    assert line in str(raised.value.diag.message_primary)


# ── what others have cannot be seen ─────────────────────────────────────────────────────────────────────────────────

RELATIONS = """
    SELECT c.oid::regclass::text AS name FROM pg_class AS c
     WHERE c.relnamespace = 'assessments'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY 1
"""


@pytest.fixture
def relations(psql: Connection) -> list[str]:
    """Every table and view of the schema, those of later revisions included."""
    return [row["name"] for row in psql.execute(RELATIONS).fetchall()]


def test_no_table_and_no_view_shows_anything_of_another_owner(
    alice: Connection, bob: Connection, psql: Connection, relations: list[str]
) -> None:
    """Alice has something in each of them; Bob, and a service that acts for nobody, see none of it."""
    live(alice)
    live(alice, "gone")
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
    """The owner of the tables, and members of gristmill_worker, to whom BYPASSRLS does not pass."""
    for connection in (alice, bob):
        live(connection)
    psql.execute("SELECT assessments.create_assessment('a-1', '{}')")

    counts = {"assessment_states": 3, "assessment_metrics": 2, "assessment_state_cache": 2, "assessment_state_audit": 3}
    for role in ("gristmill", "gristmill_worker"):
        psql.execute(f"SET ROLE {role}")
        found = {name: one(psql, f"SELECT count(*) FROM assessments.{name}") for name in counts}
        assert found == counts
    psql.execute("RESET ROLE")
    assert set(counts) <= {name.removeprefix("assessments.") for name in relations}


def test_a_member_of_the_workers_role_sees_everything_too(alice: Connection, psql: Connection) -> None:
    """As the worker's own login does."""
    live(alice)
    with psql.transaction(force_rollback=True):
        psql.execute("CREATE ROLE a_worker IN ROLE gristmill_worker; SET LOCAL ROLE a_worker")
        for name in ("assessment_states", "assessment_metrics", "assessment_state_cache", "assessment_state_audit"):
            assert one(psql, f"SELECT count(*) FROM assessments.{name}") == 1


def test_a_function_in_a_condition_sees_no_row_of_others(alice: Connection, bob: Connection, psql: Connection) -> None:
    """The planner would evaluate a cheap one first, and it tells its author what it is given."""
    live(alice)
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


# ── one name, two owners ────────────────────────────────────────────────────────────────────────────────────────────


def test_the_same_name_is_another_assessment_for_each_owner(
    alice: Connection, bob: Connection, psql: Connection
) -> None:
    """Nobody meets the other in it, and nobody learns that it exists."""
    hers, his = create(alice, secret="hers"), create(bob, secret="his")
    theirs = one(psql, "SELECT assessments.create_assessment('a-1', '{\"secret\": \"theirs\"}')")

    assert len({hers, his, theirs}) == 3
    assert create(alice, secret="hers") == hers
    assert one(bob, "SELECT request_data FROM assessment_states") == {"secret": "his"}
    owners = psql.execute("SELECT owner_id FROM assessments.assessment_states ORDER BY owner_id NULLS FIRST").fetchall()
    assert [row["owner_id"] for row in owners] == [None, BOB, ALICE]


def test_another_owners_assessment_does_not_exist(alice: Connection, bob: Connection) -> None:
    """Whatever Bob asks of it, he hears what he hears of a name that nobody uses."""
    live(alice, "hers")
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
    """It is kept as Bob's, and Alice never sees it."""
    live(alice)
    bob.execute("INSERT INTO assessment_metrics (assessment_id, metric_type, metric_value) VALUES ('a-1', 'lie', 1)")

    assert one(alice, "SELECT count(*) FROM assessment_metrics WHERE metric_type = 'lie'") == 0
    assert one(bob, "SELECT owner_id FROM assessment_metrics") == BOB


def test_what_the_database_measures_and_retires_belongs_to_the_assessments_owner(
    alice: Connection, psql: Connection
) -> None:
    """Also where a worker or an operator ends or deletes it."""
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
    """One clear line; with an owner he acts for that one only."""
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
    """No tenant can keep an operator from his own; what only one owner has needs no owner to be said."""
    psql.execute("SELECT assessments.create_assessment('a-1', '{}')")
    create(alice)
    create(bob)
    create(alice, "only hers")

    psql.execute("SELECT assessments.update_assessment_state('a-1', 'cancelled', 1)")
    psql.execute("SELECT assessments.update_assessment_state('only hers', 'cancelled', 1)")

    states = psql.execute("SELECT owner_id, state::text FROM assessments.assessment_states WHERE assessment_id = 'a-1'")
    assert {row["owner_id"]: row["state"] for row in states} == {None: "cancelled", ALICE: "pending", BOB: "pending"}


def test_a_cleanup_for_one_owner_leaves_the_others_alone(alice: Connection, bob: Connection, psql: Connection) -> None:
    """Operators clean up everything, or what belongs to whom they act for; services nothing."""
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
    """By the page's own statements; its history, retired names and measurements go with it, and the guard is back."""
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
def test_a_service_that_acts_for_nobody_is_told_what_is_missing(speak: Speak, psql: Connection, statement: str) -> None:
    """In one line, and no row without an owner comes of it."""
    with refused(errors.NullValueNotAllowed, NO_ACTOR):
        speak(None).execute(statement)

    assert one(psql, "SELECT count(*) FROM assessments.assessment_states") == 0
    assert one(psql, "SELECT count(*) FROM assessments.assessment_metrics") == 0


# ── what a service's role may write ─────────────────────────────────────────────────────────────────────────────────

MAY_INSERT = {
    "assessment_states": {
        "assessment_id", "request_data", "priority", "timeout_seconds", "idempotency_key", "next_retry_at",
    },
    "assessment_metrics": {"assessment_id", "metric_type", "metric_value"},
}  # fmt: skip


def test_a_service_may_insert_these_columns_and_write_nothing_else(psql: Connection) -> None:
    """By the catalogue, column by column: a table or a column that comes later is closed until somebody opens it."""
    rows = psql.execute("""
        SELECT c.relname, a.attname, p.privilege FROM pg_class AS c
          JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         CROSS JOIN unnest(ARRAY['INSERT', 'UPDATE', 'REFERENCES']) AS p (privilege)
         WHERE c.relnamespace = 'assessments'::regnamespace AND c.relkind IN ('r', 'p', 'v')
           AND has_column_privilege('gristmill_service', c.oid, a.attnum, p.privilege)
    """).fetchall()

    granted: dict[str, set[str]] = {}
    for row in rows:
        assert row["privilege"] == "INSERT"
        granted.setdefault(row["relname"], set()).add(row["attname"])
    assert granted == MAY_INSERT


def test_a_service_may_delete_truncate_and_make_triggers_nowhere(psql: Connection) -> None:
    """Of every table and view there is."""
    rows = psql.execute("""
        SELECT c.relname, p.privilege FROM pg_class AS c
         CROSS JOIN unnest(ARRAY['DELETE', 'TRUNCATE', 'TRIGGER', 'MAINTAIN']) AS p (privilege)
         WHERE c.relnamespace = 'assessments'::regnamespace AND c.relkind IN ('r', 'p', 'v')
           AND has_table_privilege('gristmill_service', c.oid, p.privilege)
    """).fetchall()

    assert rows == []


MAY_CALL = {"acting_owner", "create_assessment", "get_cached_state", "job_of", "owner_of_assessment_states",
            "put_cached_state", "update_assessment_state"}  # fmt: skip


def test_a_service_may_call_these_functions_and_nobody_may_call_the_triggers(psql: Connection) -> None:
    """Each with the rights of its owner has a pinned search_path; PUBLIC calls none."""
    rows = psql.execute("""
        SELECT proname, prosecdef, prorettype = 'trigger'::regtype AS triggers, coalesce(proconfig::text, '') AS pinned,
               has_function_privilege('gristmill_service', p.oid, 'EXECUTE') AS service,
               has_function_privilege('gristmill_worker', p.oid, 'EXECUTE') AS worker,
               EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) AS g
                        WHERE g.grantee = 0) AS public
          FROM pg_proc AS p WHERE pronamespace = 'assessments'::regnamespace
    """).fetchall()

    assert {row["proname"] for row in rows if row["service"]} == MAY_CALL
    assert [row["proname"] for row in rows if row["public"]] == []
    assert [row["proname"] for row in rows if row["triggers"] and (row["service"] or row["worker"])] == []
    assert [row["proname"] for row in rows if row["prosecdef"] and "search_path" not in row["pinned"]] == []


@pytest.mark.parametrize("function", ["measure_endings", "remember_retired", "refuse_loss", "update_updated_at_column",
                                      "guard_assessment_states_insert", "guard_assessment_states_update"])  # fmt: skip
def test_a_trigger_function_cannot_be_borrowed(alice: Connection, psql: Connection, function: str) -> None:
    """A service may make temporary tables; their triggers may not have the store's rights."""
    psql.execute("GRANT TEMPORARY ON DATABASE committed TO gristmill_service")
    alice.execute("CREATE TEMP TABLE mine (id uuid, assessment_id varchar(255), owner_id uuid)")

    with refused(errors.InsufficientPrivilege):
        alice.execute(f"CREATE TRIGGER t AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION {function}()")


@pytest.mark.parametrize("function", ["measure_endings", "remember_retired"])
def test_a_trigger_function_serves_its_own_table_only(psql: Connection, function: str) -> None:
    """Even for somebody who may make such a trigger."""
    event, rows = ("UPDATE", "OLD TABLE AS old_rows NEW TABLE AS new_rows") if function == "measure_endings" else (
        "DELETE", "OLD TABLE AS gone")  # fmt: skip
    with refused(errors.InsufficientPrivilege, "assessments, not "), psql.transaction():
        psql.execute(
            "CREATE TEMP TABLE mine (id uuid, assessment_id varchar(255), owner_id uuid, completed_at timestamptz)"
        )
        psql.execute("INSERT INTO mine VALUES (uuidv7(), 'a', NULL, now())")
        psql.execute(f"CREATE TRIGGER t AFTER {event} ON mine REFERENCING {rows} "
                     f"FOR EACH STATEMENT EXECUTE FUNCTION assessments.{function}()")  # fmt: skip
        psql.execute("DELETE FROM mine" if event == "DELETE" else "UPDATE mine SET completed_at = now()")


@pytest.mark.parametrize(
    ("columns", "values", "error"),
    [
        ("metric_type, metric_value", "'', 1", errors.CheckViolation),
        ("metric_type, metric_value", "'x', -1", errors.CheckViolation),
        ("metric_type, metric_value", "'x', 2147483648", errors.NumericValueOutOfRange),
        ("metric_type, metric_value, timestamp", "'x', 1, 'infinity'", errors.InsufficientPrivilege),
        ("metric_type, metric_value, owner_id", f"'x', 1, '{BOB}'", errors.InsufficientPrivilege),
        ("metric_type, metric_value, id", "'x', 1, uuidv7()", errors.InsufficientPrivilege),
    ],
)
def test_a_measurement_cannot_be_forged(
    alice: Connection, columns: str, values: str, error: type[psycopg.Error]
) -> None:
    """Its time, its owner and its id are the database's; its value is a count."""
    with refused(error):
        alice.execute(f"INSERT INTO assessment_metrics (assessment_id, {columns}) VALUES ('a-1', {values})")


@pytest.mark.parametrize("time", ["infinity", "-infinity", "0001-01-01", "12000-01-01"])
def test_not_even_an_operator_measures_at_a_time_that_nobody_can_read(psql: Connection, time: str) -> None:
    """Every reader of measurements holds the years from 1970 to 9999."""
    with refused(errors.CheckViolation):
        psql.execute(
            "INSERT INTO assessments.assessment_metrics (assessment_id, metric_type, metric_value, timestamp) "
            "VALUES ('a-1', 'x', 1, %s)",
            [time],
        )


# ── ids of other tables ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def scoring_job(psql: Connection) -> uuid.UUID:
    """A scoring job of nobody's, with a history of its own table's states."""
    profile = one(psql, "INSERT INTO scoring.profiles (name) VALUES ('p') RETURNING id")
    job_id: uuid.UUID = one(psql, "SELECT scoring.enqueue_score(%s, 'secret prompt')", profile)
    psql.execute("SELECT set_config('gristmill.change_reason', 'secret reason', false)")
    psql.execute("SELECT runtime.cancel(%s, 'secret reason')", [job_id])
    psql.execute("RESET gristmill.change_reason")
    return job_id


def test_an_assessment_with_the_id_of_a_scoring_job_shows_none_of_its_history(
    alice: Connection, psql: Connection, scoring_job: uuid.UUID
) -> None:
    """A service cannot give an id at all; where an operator did, the stage tells the two apart."""
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
    """Ingestion's QUEUED_FOR_VEC is no state of an assessment; the planner may look at it first all the same."""
    project = one(psql, "INSERT INTO operations.projects (name) VALUES ('p') RETURNING id")
    psql.execute("SELECT operations.enqueue_ingest(%s, 'TASK', 'content')", [project])
    create(alice)

    for connection in (alice, psql):
        found = connection.execute(
            "SELECT assessment_id FROM assessments.assessment_state_audit WHERE new_state = %s AND old_state IS NULL",
            [state],
        ).fetchall()
        assert [row["assessment_id"] for row in found] == (["a-1"] if state == "pending" else [])


# ── what is refused names the field ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("'a', 'null'", "request_data must be a JSON object, got null"),
        ("'a', '[1]'", "request_data must be a JSON object, got array"),
        ("'a', '\"x\"'", "request_data must be a JSON object, got string"),
        ("'a', NULL", "request_data must be a JSON object, got nothing"),
        ("' ', '{}'", "assessment_id must not be empty, got ' '"),
        ("NULL, '{}'", "assessment_id must not be empty, got nothing"),
        ("repeat('x', 256), '{}'", "assessment_id must have at most 255 characters, got 256"),
        ("'a' || repeat(' ', 300), '{}'", "assessment_id must have at most 255 characters, got 301"),
        ("'a', '{}', 11", "priority must lie from 1 to 10, got 11"),
        ("'a', '{}', 5, 0", "timeout_seconds must lie from 1 to 2678400, got 0"),
        ("'a', '{}', 5, 2147483647", "timeout_seconds must lie from 1 to 2678400, got 2147483647"),
    ],
)
def test_a_creation_is_refused_by_field_rule_and_value(alice: Connection, arguments: str, line: str) -> None:
    """And nothing is created."""
    with refused(psycopg.Error, line):
        alice.execute(f"SELECT create_assessment({arguments})")

    assert one(alice, "SELECT count(*) FROM assessment_states") == 0


@pytest.mark.parametrize("result", ["[0.8, 0.9]", "1", '"done"', "true"])
def test_a_result_that_is_no_object_is_refused(alice: Connection, result: str) -> None:
    """Whoever reads results looks for members."""
    create(alice)
    alice.execute("SELECT update_assessment_state('a-1', 'processing', 1)")

    with refused(errors.InvalidParameterValue, "result_data must be a JSON object, got "):
        alice.execute("SELECT update_assessment_state('a-1', 'completed', 2, %s)", [result])


def test_the_same_id_with_another_request_names_what_differs_and_not_its_content(alice: Connection) -> None:
    """Five members at most, each cut: a refusal is a line."""
    create(alice, serverName="secret-a", options={"deep": "secret"}, same=1)

    with refused(errors.UniqueViolation, "assessment 'a-1' exists with another request, which differs in ") as _:
        create(alice, serverName="secret-b", options={"deep": "other"}, same=1, more=2)
    with pytest.raises(errors.UniqueViolation) as told:
        create(alice, serverName="secret-b", options={"deep": "other"}, same=1, more=2)

    assert str(told.value.diag.message_primary).endswith("differs in more, options, serverName")
    with pytest.raises(errors.UniqueViolation) as told:
        create(alice, "a-1", **{f"{'x' * 90}{n}": str(n) for n in range(9)})
    assert len(str(told.value.diag.message_primary)) < 400


# ── the cache ───────────────────────────────────────────────────────────────────────────────────────────────────────


def cached(connection: Connection, name: str = "a-1") -> Any:
    return one(connection, "SELECT get_cached_state(%s)", name)


@pytest.mark.parametrize(
    "change",
    [
        "SELECT assessments.update_assessment_state('a-1', 'processing', 1)",
        "SELECT assessments.update_assessment_state('a-1', 'cancelled', 1)",
        "UPDATE assessments.assessment_states SET priority = 1",
        "UPDATE assessments.assessment_states SET dispatched_at = now()",
        "DELETE FROM assessments.assessment_states",
    ],
)
def test_the_cache_never_tells_what_the_row_has_left_behind(alice: Connection, psql: Connection, change: str) -> None:
    """Whoever changes it, by function or by hand; also within one transaction, and in the table itself."""
    create(alice)
    alice.execute("SELECT put_cached_state('a-1', '{\"state\": \"pending\"}', 600)")
    assert cached(alice) == {"state": "pending"}
    assert one(alice, "SELECT state_data FROM assessment_state_cache") == {"state": "pending"}

    psql.execute(change)

    assert cached(alice) is None
    assert one(alice, "SELECT count(*) FROM assessment_state_cache") == 0


def test_the_cache_forgets_a_change_within_the_transaction_that_put(alice: Connection) -> None:
    """Two versions of one transaction have one time and one transaction's number."""
    with alice.transaction():
        create(alice)
        alice.execute("SELECT put_cached_state('a-1', '{\"version\": 1}')")
        assert cached(alice) == {"version": 1}
        alice.execute("SELECT update_assessment_state('a-1', 'processing', 1)")
        assert cached(alice) is None


def test_a_deleted_assessment_created_again_has_nothing_cached(alice: Connection, psql: Connection) -> None:
    """What was put for its predecessor is not its own, and nothing is put for what does not exist."""
    create(alice)
    alice.execute("SELECT put_cached_state('a-1', '{\"old\": 1}', 600)")
    psql.execute("DELETE FROM assessments.assessment_states")
    alice.execute("SELECT put_cached_state('a-1', '{\"late\": 1}', 600)")
    assert cached(alice) is None

    create(alice)

    assert cached(alice) is None


def test_a_state_of_an_older_version_is_not_put(alice: Connection) -> None:
    """Whoever read before somebody else changed it says which version that was."""
    create(alice)
    alice.execute("SELECT update_assessment_state('a-1', 'processing', 1)")

    alice.execute('SELECT put_cached_state(\'a-1\', \'{"version": 1, "state": "pending"}\')')
    assert cached(alice) is None
    alice.execute("SELECT put_cached_state('a-1', '{\"state\": \"pending\"}', p_version => 1)")
    assert cached(alice) is None
    alice.execute("SELECT put_cached_state('a-1', '{\"state\": \"processing\"}', p_version => 2)")
    assert cached(alice) == {"state": "processing"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("'a-1', '[]'", "state_data must be a JSON object, got array"),
        ("'a-1', NULL", "state_data must be a JSON object, got nothing"),
        ("'a-1', '{}', -1", "ttl_seconds must lie from 0 to 86400, got -1"),
        ("'a-1', '{}', 2147483647", "ttl_seconds must lie from 0 to 86400, got 2147483647"),
        ("'a-1', '{}', NULL", "ttl_seconds must lie from 0 to 86400, got nothing"),
    ],
)
def test_what_cannot_be_cached_is_refused_by_field(alice: Connection, arguments: str, line: str) -> None:
    """A day at most."""
    create(alice)
    with refused(errors.InvalidParameterValue, line):
        alice.execute(f"SELECT put_cached_state({arguments})")


# ── races ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def together(*actions: Callable[[], object]) -> list[object]:
    """Run the actions at once, each in a thread of its own; return what each returned or raised."""
    start = threading.Barrier(len(actions))
    results: list[object] = [None] * len(actions)

    def run(place: int) -> None:
        start.wait(timeout=30)
        try:
            results[place] = actions[place]()
        except psycopg.Error as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return results


def test_of_two_creators_with_two_requests_one_wins_and_the_other_is_told(speak: Speak) -> None:
    """Whoever comes first; a third of another owner is in nobody's way."""
    first, second, other = speak(ALICE), speak(ALICE), speak(BOB)
    for run in range(RUNS):
        name = f"race-{run}"
        results = together(
            partial(create, first, name, by="first"),
            partial(create, second, name, by="second"),
            partial(create, other, name, by="other"),
        )

        assert isinstance(results[2], uuid.UUID)
        losers = [one for one in results[:2] if isinstance(one, errors.UniqueViolation)]
        assert len(losers) == 1, results
        assert str(losers[0].diag.message_primary).endswith("which differs in by")
        assert one(first, "SELECT count(*) FROM assessment_states WHERE assessment_id = %s", name) == 1


def test_of_two_creators_with_one_request_both_get_the_same_assessment(speak: Speak) -> None:
    """A creation that is asked for again is the same creation."""
    first, second = speak(ALICE), speak(ALICE)
    for run in range(RUNS):
        name = f"race-{run}"
        results = together(partial(create, first, name), partial(create, second, name))

        assert isinstance(results[0], uuid.UUID)
        assert results[0] == results[1]


def test_whoever_reads_and_puts_while_another_updates_never_caches_the_past(speak: Speak, psql: Connection) -> None:
    """However the two meet: what the cache tells afterwards is the row's own version, or nothing."""
    reader, writer = speak(ALICE), speak(ALICE)
    kept = 0
    for run in range(RUNS):
        name = f"race-{run}"
        create(writer, name)

        def read_and_put(name: str = name) -> None:
            for _ in range(5):
                version = one(reader, "SELECT version FROM assessment_states WHERE assessment_id = %s", name)
                reader.execute("SELECT put_cached_state(%s, %s, 600)", [name, Jsonb({"version": version})])

        def change(name: str = name) -> None:
            for version in range(1, 5):
                writer.execute("SELECT update_assessment_state(%s, 'processing', %s)", [name, version])

        results = together(read_and_put, change)

        assert results == [None, None]
        told = cached(reader, name)
        assert told in (None, {"version": 5})
        kept += told is not None
        entries = psql.execute(
            "SELECT version FROM assessments.assessment_state_cache WHERE assessment_id = %s", [name]
        )
        assert all(row["version"] <= 5 for row in entries)
    reader.execute("SELECT put_cached_state('race-0', '{\"version\": 5}', 600)")
    assert cached(reader, "race-0") == {"version": 5}
