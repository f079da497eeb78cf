"""What the role of a service may write and call in the assessment store."""

import psycopg
import pytest
from psycopg import errors

from tests.support.assessment_services import BOB, Connection, refused

MAY_INSERT = {
    "assessment_states": {
        "assessment_id", "request_data", "priority", "timeout_seconds", "idempotency_key", "next_retry_at",
        "callback_url", "traceparent",
    },
    "assessment_metrics": {"assessment_id", "metric_type", "metric_value"},
}  # fmt: skip


def test_a_service_may_insert_these_columns_and_write_nothing_else(psql: Connection) -> None:
    """The catalogue is checked column by column, so a new table or column needs an explicit right."""
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
    """This holds for every table and view."""
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
    """Each SECURITY DEFINER function has a pinned search_path, and PUBLIC may call none."""
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
    """A service may create temporary tables, but their triggers must not get the store's rights."""
    psql.execute("GRANT TEMPORARY ON DATABASE committed TO gristmill_service")
    alice.execute("CREATE TEMP TABLE mine (id uuid, assessment_id varchar(255), owner_id uuid)")

    with refused(errors.InsufficientPrivilege):
        alice.execute(f"CREATE TRIGGER t AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION {function}()")


@pytest.mark.parametrize("function", ["measure_endings", "remember_retired"])
def test_a_trigger_function_serves_its_own_table_only(psql: Connection, function: str) -> None:
    """This also holds for a role that may create such a trigger."""
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
    """The database sets its time, owner and id; its value must be a count."""
    with refused(error):
        alice.execute(f"INSERT INTO assessment_metrics (assessment_id, {columns}) VALUES ('a-1', {values})")


@pytest.mark.parametrize("time", ["infinity", "-infinity", "0001-01-01", "12000-01-01"])
def test_not_even_an_operator_measures_at_a_time_that_nobody_can_read(psql: Connection, time: str) -> None:
    """Every client can read the years from 1970 to 9999."""
    with refused(errors.CheckViolation):
        psql.execute(
            "INSERT INTO assessments.assessment_metrics (assessment_id, metric_type, metric_value, timestamp) "
            "VALUES ('a-1', 'x', 1, %s)",
            [time],
        )
