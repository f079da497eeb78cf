"""Differences from the seed's SQL: the seed's version fails or loses data, ours does what the seed intends."""

import psycopg
import pytest
from psycopg import errors
from psycopg.types.json import Jsonb

from tests.support import seed_assessments as seed

REQUEST = {"serverName": "srv", "assessmentType": "llm_rubric"}


class Twins:
    """The seed's tables in their own schema, and ours; a test runs the same statement on both."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection

    def use(self, schema: str) -> None:
        self.connection.execute(f"SET search_path = {schema}")

    def run(self, statement: str, *values):
        cursor = self.connection.execute(statement, values or None)
        return cursor.fetchone() if cursor.description else None

    def refused(self, statement: str, error: type[psycopg.Error]) -> str:
        with pytest.raises(error) as refused, self.connection.transaction():
            self.run(statement)
        return str(refused.value.diag.message_primary)

    def row(self, columns: str = "*"):
        return self.run(f"SELECT {columns} FROM assessment_states WHERE assessment_id = 'a'")


@pytest.fixture
def twins(psql):
    """The valid parts of the seed's schema, without the audit trigger, which refuses every update."""
    with psql.transaction(force_rollback=True):
        psql.execute("CREATE SCHEMA seed; SET search_path = seed")
        for part in (seed.STATES, seed.SUMMARY, seed.CREATE, seed.UPDATE, seed.EXISTING):
            psql.execute(part)
        yield Twins(psql)


def both(twins, request=REQUEST):
    """Yield each schema's name with one assessment made in it."""
    for schema in ("seed", "assessments"):
        twins.use(schema)
        twins.run("SELECT create_assessment('a', %s)", Jsonb(request))
        yield schema


def test_its_audit_trigger_refuses_every_update_ours_records_it(twins):
    """``->>`` returns text, but the column is jsonb."""
    for schema in both(twins):
        if schema == "seed":
            twins.run(seed.AUDIT)
            assert "jsonb" in twins.refused("UPDATE assessment_states SET priority = 1", errors.DatatypeMismatch)
        else:
            twins.run("SELECT update_assessment_state('a', 'processing', 1)")
            assert twins.run("SELECT count(*) AS n FROM assessment_state_audit")["n"] == 2


def test_its_audit_names_whoever_came_last_ours_who_did_it(twins):
    """The seed reads the name out of ``request_data``, where an earlier change left it."""
    for schema in both(twins, {**REQUEST, "changed_by": "alice", "context": None}):
        if schema == "seed":
            twins.run(seed.AUDIT.replace("NEW.request_data->>'context'", "NEW.request_data->'context'"))
        else:
            twins.run("UPDATE assessment_states SET dispatched_at = now()")
        twins.run("UPDATE assessment_states SET state = 'processing', progress = 1, version = 2")
        row = twins.run("SELECT changed_by, session_user::text AS me FROM assessment_state_audit WHERE version_to = 2")
        assert row["changed_by"] == ("alice" if schema == "seed" else row["me"])


def test_its_audit_misses_the_creation_ours_begins_with_it(twins):
    """Our history begins with the creation."""
    for schema in both(twins):
        if schema == "seed":
            twins.run(seed.AUDIT)
            twins.run("SELECT create_assessment('b', '{}')")
        row = twins.run("SELECT count(*) AS n FROM assessment_state_audit")
        assert row["n"] == (0 if schema == "seed" else 1)


def test_its_audit_can_be_forged_ours_cannot_be_written(twins):
    """Nobody can write the history."""
    forged = "INSERT INTO assessment_state_audit (assessment_id, new_state) VALUES ('a', 'completed')"
    for schema in both(twins):
        if schema == "seed":
            twins.run(seed.AUDIT)
            twins.run(forged)
        else:
            assert "cannot insert" in twins.refused(forged, errors.ObjectNotInPrerequisiteState)


@pytest.mark.parametrize("statement", [seed.METRICS, seed.QUEUE], ids=["inline INDEX", "UNIQUE name (…)"])
def test_its_inline_indexes_are_not_postgres(twins, statement):
    """Ours exist; test_assessment_seed.py checks them."""
    twins.refused(statement, psycopg.ProgrammingError)


def test_its_cleanup_cannot_be_called_ours_deletes(twins):
    """``DELETE … LIMIT`` is MySQL syntax; Postgres fails at the first call."""
    twins.run("SET LOCAL check_function_bodies = off")
    twins.run(seed.CLEANUP)
    for schema in both(twins):
        if schema == "seed":
            twins.refused("SELECT cleanup_old_assessments(0)", errors.SyntaxError)
        else:
            twins.run(
                "UPDATE assessment_states SET state = 'cancelled', progress = 100, version = 2, "
                "completed_at = now() - interval '31 days'"
            )
            assert twins.run("SELECT cleanup_old_assessments() AS n")["n"] == 1


def test_its_partial_update_erases_the_result_ours_keeps_it(twins):
    """A value that is not given is not changed."""
    for schema in both(twins):
        twins.run("""SELECT update_assessment_state('a', 'processing', 1, '{"part": 1}', 'flaky', 10, 'me')""")
        twins.run("SELECT update_assessment_state('a', 'processing', 2, p_progress => 20, p_changed_by => 'me')")
        row = twins.row("result_data, error_message")
        kept = {"result_data": {"part": 1}, "error_message": "flaky"}
        assert row == ({"result_data": None, "error_message": None} if schema == "seed" else kept)


def test_its_update_without_a_name_erases_the_request_and_is_refused_ours_is_not(twins):
    """``jsonb_set(…, NULL)`` is NULL, the column is NOT NULL."""
    update = "SELECT update_assessment_state('a', 'processing', 1, p_progress => 10)"
    for schema in both(twins):
        if schema == "seed":
            assert "request_data" in twins.refused(update, errors.NotNullViolation)
        else:
            twins.run(update)
            assert twins.row("request_data")["request_data"] == REQUEST


def test_its_update_writes_into_the_request_ours_leaves_it_alone(twins):
    """The request never changes."""
    for schema in both(twins):
        twins.run("SELECT update_assessment_state('a', 'cancelled', 1, p_progress => 100, p_changed_by => 'me')")
        assert twins.row("request_data")["request_data"] == (
            {**REQUEST, "changed_by": "me"} if schema == "seed" else REQUEST
        )


@pytest.mark.parametrize(("state", "reached"), [("processing", 1), ("cancelled", 100)])
def test_its_update_without_progress_breaks_its_own_check_ours_fills_it_in(twins, state, reached):
    """Our function sets the progress that the state requires."""
    update = f"SELECT update_assessment_state('a', '{state}', 1, p_changed_by => 'me')"
    for schema in both(twins):
        if schema == "seed":
            twins.refused(update, errors.CheckViolation)
        else:
            twins.run(update)
            assert twins.row("progress")["progress"] == reached


def test_its_retry_keeps_completed_at_and_is_refused_ours_starts_again(twins):
    """A failed assessment can return to pending, which costs one attempt."""
    for schema in both(twins):
        twins.run("SELECT update_assessment_state('a', 'processing', 1, p_progress => 5, p_changed_by => 'me')")
        twins.run("SELECT update_assessment_state('a', 'failed', 2, NULL, 'boom', 100, 'me')")
        retry = "SELECT update_assessment_state('a', 'pending', 3, p_progress => 0, p_changed_by => 'me')"
        if schema == "seed":
            twins.refused(retry, errors.CheckViolation)
        else:
            twins.run(retry)
            row = twins.row("state, completed_at, retry_count, error_message")
            assert row == {"state": "pending", "completed_at": None, "retry_count": 1, "error_message": "boom"}


def test_its_update_takes_any_transition_ours_names_the_illegal_one(twins):
    """A cancelled assessment cannot complete."""
    revive = "SELECT update_assessment_state('a', 'completed', 2, '{}', NULL, 100, 'me')"
    for schema in both(twins):
        twins.run("SELECT update_assessment_state('a', 'cancelled', 1, p_progress => 100, p_changed_by => 'me')")
        if schema == "seed":
            twins.run(revive)
        else:
            assert twins.refused(revive, errors.CheckViolation) == (
                "assessment 'a' is cancelled, it cannot become completed"
            )


def test_its_update_without_a_version_overwrites_ours_asks_for_it(twins):
    """``NULL != version`` is no conflict."""
    update = "SELECT update_assessment_state('a', 'processing', NULL, p_progress => 5, p_changed_by => 'me') AS done"
    for schema in both(twins):
        if schema == "seed":
            assert twins.run(update)["done"]
        else:
            assert "must be given" in twins.refused(update, errors.NullValueNotAllowed)


def test_its_update_of_nothing_says_false_ours_names_what_is_missing(twins):
    """A typing error must not look like a success."""
    update = "SELECT update_assessment_state('b', 'processing', 1, p_changed_by => 'me') AS done"
    for schema in both(twins):
        if schema == "seed":
            assert twins.run(update)["done"] is False
        else:
            assert twins.refused(update, errors.NoDataFound) == "assessment 'b' does not exist (any more)"


def test_its_conflict_is_any_error_ours_has_a_code(twins):
    """A client tells a conflict from a failure by its SQLSTATE; both name the two versions."""
    update = "SELECT update_assessment_state('a', 'processing', 7, p_changed_by => 'me')"
    for schema in both(twins):
        with pytest.raises(psycopg.Error) as refused, twins.connection.transaction():
            twins.run(update)
        assert refused.value.sqlstate == ("P0001" if schema == "seed" else "GM409")
        assert "7" in str(refused.value)
        assert "1" in str(refused.value)


def test_its_repeated_creation_fails_ours_answers_again(twins):
    """The same request again returns the first id; another request with the same id is refused."""
    for schema in both(twins):
        first = twins.row("id")["id"]
        again = 'SELECT create_assessment(\'a\', \'{"serverName": "srv", "assessmentType": "llm_rubric"}\') AS id'
        if schema == "seed":
            twins.refused(again, errors.UniqueViolation)
        else:
            assert twins.run(again)["id"] == first
            assert "another request" in twins.refused("SELECT create_assessment('a', '{}')", errors.UniqueViolation)


def test_its_null_progress_passes_every_check_ours_is_refused(twins):
    """A CHECK accepts NULL results."""
    for schema in both(twins):
        if schema == "seed":
            twins.run("UPDATE assessment_states SET progress = NULL, priority = NULL")
        else:
            twins.refused("UPDATE assessment_states SET progress = NULL", errors.NotNullViolation)


def test_its_summary_reports_creations_as_completions_ours_completions(twins):
    """``earliest_completed`` is when the first one was completed."""
    for schema in both(twins):
        twins.run(
            "SET LOCAL session_replication_role = replica"
        )  # simulates a day that has passed, which the guard does not allow
        twins.run("UPDATE assessment_states SET created_at = now() - interval '1 day'")
        twins.run("SET LOCAL session_replication_role = origin")
        twins.run("SELECT update_assessment_state('a', 'cancelled', 1, p_progress => 100, p_changed_by => 'me')")
        row = twins.run("SELECT earliest_completed = now() AS right FROM completed_assessments_summary")
        assert row["right"] is (schema != "seed")


def test_its_migration_breaks_its_own_checks(twins):
    """``completed`` without its time and without progress; ours is ``gristmill assessments import``."""
    assert "valid_" in twins.refused(seed.IMPORT, errors.CheckViolation)


def test_its_pgcrypto_is_not_there(twins):
    """The embedded PostgreSQL has no OpenSSL, and no statement of the seed needs it."""
    available = twins.run("SELECT count(*) AS n FROM pg_available_extensions WHERE name = 'pgcrypto'")["n"]

    if not available:
        twins.refused('CREATE EXTENSION IF NOT EXISTS "pgcrypto"', errors.FeatureNotSupported)
