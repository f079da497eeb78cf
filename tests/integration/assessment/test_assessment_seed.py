"""The seed document, section by section: each valid statement runs against our schema and does what it says.

Names are unqualified as in the document: the connection has ``search_path = assessments``.
"""

import uuid
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support.seed_assessments import (
    AUDIT_COLUMNS,
    CACHE_COLUMNS,
    INDEXES,
    METRIC_COLUMNS,
    QUEUE_COLUMNS,
    SIGNATURES,
    STATE_COLUMNS,
    columns,
)

REQUEST = {"serverName": "srv", "assessmentType": "llm_rubric", "options": {}}


# A name is unique per owner, so this index of the seed has the owner as second column.
BY_OWNER = "(assessment_id, owner_id) NULLS NOT DISTINCT"


@pytest.fixture
def seed(psql):
    """A psql session with unqualified names, as in the document."""
    psql.execute("SET search_path = assessments, public")
    return psql


def one(connection, statement: str, *values) -> Any:
    return connection.execute(statement, values).fetchone()


def create(connection, name: str = "a-1", **more) -> uuid.UUID:
    job_id: uuid.UUID = one(connection, "SELECT create_assessment(%s, %s) AS id", name, Jsonb({**REQUEST, **more}))[
        "id"
    ]
    return job_id


def update(connection, state: str, version: int, name: str = "a-1", **more) -> bool:
    given = "".join(f", p_{key} => %s" for key in more)
    values = [Jsonb(value) if isinstance(value, dict) else value for value in more.values()]
    call = f"SELECT update_assessment_state(%s, %s, %s{given}) AS done"
    return bool(one(connection, call, name, state, version, *values)["done"])


def state(connection, name: str = "a-1"):
    return one(connection, "SELECT * FROM assessment_states WHERE assessment_id = %s", name)


# ── 1. Main assessment state table ──────────────────────────────────────────────────────────────────────────────────


def test_1_the_enum_folds_to_lower_case_and_has_the_five_states(seed):
    """The type ``AssessmentState`` can be written in any case."""
    rows = seed.execute("SELECT unnest(enum_range(NULL::AssessmentState))::text AS state").fetchall()

    assert [row["state"] for row in rows] == ["pending", "processing", "completed", "failed", "cancelled"]
    assert one(seed, "SELECT 'pending'::assessments.assessmentstate = 'pending'::AssessmentState AS same")["same"]


def test_1_every_column_is_there_with_its_type_and_default(seed):
    """The table has the lifecycle's columns too."""
    found = columns(seed, "assessment_states")

    assert {name: found[name] for name in STATE_COLUMNS} == STATE_COLUMNS
    assert {"dispatched_at", "lease_owner", "deadline_at", "idempotency_key", "started_at"} < found.keys()


def test_1_every_index_is_there(seed):
    """Names, columns and conditions are those of the seed, also for the cache and the metrics."""
    rows = seed.execute("SELECT indexname::text AS name, indexdef FROM pg_indexes WHERE schemaname = 'assessments'")
    found = {row["name"]: row["indexdef"].partition(" USING btree ")[2] for row in rows}

    assert {name: found[name] for name in INDEXES} == {**INDEXES, "idx_assessment_states_assessment_id": BY_OWNER}


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ("progress = 101", "progress"),
        ("progress = -1", "progress"),
        ("progress = 1", "valid_progress"),
        ("priority = 0", "priority"),
        ("priority = 11", "priority"),
        ("completed_at = now(), version = 2", "valid_state_transition"),
    ],
)
def test_1_the_checks_hold(seed, values, rule):
    """Each CHECK is tested on a pending row."""
    create(seed)

    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        seed.execute(f"UPDATE assessment_states SET {values}")

    assert refused.value.diag.constraint_name in {f"ck_assessment_states_{rule}", rule} | (
        {"ck_assessment_states_progress", "ck_assessment_states_terminal_timestamp"}
        if rule.startswith("valid")
        else set()
    )


def test_1_the_seeds_own_checks_are_there_by_name(seed):
    """They have the seed's text; the lifecycle has its own CHECKs."""
    rows = seed.execute(
        "SELECT conname::text AS name FROM pg_constraint "
        "WHERE conrelid = 'assessment_states'::regclass AND contype = 'c'"
    )

    assert {"valid_state_transition", "valid_progress"} <= {row["name"] for row in rows}


def test_1_an_assessment_id_exists_once(seed):
    """The UNIQUE constraint holds for every door."""
    create(seed)

    with pytest.raises(psycopg.errors.UniqueViolation):
        seed.execute("INSERT INTO assessment_states (assessment_id, request_data) VALUES ('a-1', '{}')")


def test_1_an_update_by_hand_moves_updated_at(seed):
    """The seed's trigger sets it, except for a ticket of the dispatcher."""
    create(seed)
    before = state(seed)["updated_at"]

    seed.execute("UPDATE assessment_states SET dispatched_at = now()")
    assert state(seed)["updated_at"] == before

    seed.execute("UPDATE assessment_states SET priority = 1")
    assert state(seed)["updated_at"] > before


# ── 2. Audit trail ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_2_the_audit_trail_has_the_seeds_columns(seed):
    """It is a view with the seed's types."""
    found = {name: kind for name, (kind, _, _) in columns(seed, "assessment_state_audit").items()}

    assert found == {**AUDIT_COLUMNS, "owner_id": "uuid"}


def test_2_every_change_leaves_a_row_that_says_everything(seed):
    """The row has who, why, action, context, ip and user agent, from the session and the arguments."""
    with seed.transaction():
        seed.execute("SET LOCAL gristmill.changed_by = 'service-a'")
        seed.execute("""SET LOCAL gristmill.context = '{"ticket": 7}'""")
        seed.execute("SET LOCAL gristmill.ip_address = '192.0.2.7'")
        seed.execute("SET LOCAL gristmill.user_agent = 'agent/1'")
        create(seed)
        update(seed, "processing", 1, changed_by="alice", change_reason="urgent")

    created, started = seed.execute(
        "SELECT * FROM assessment_state_audit WHERE assessment_id = 'a-1' ORDER BY version_to"
    ).fetchall()
    assert (created["old_state"], created["new_state"], created["version_to"]) == (None, "pending", 1)
    assert (created["changed_by"], created["change_action"]) == ("service-a", "enqueue")
    assert (started["old_state"], started["new_state"]) == ("pending", "processing")
    assert (started["version_from"], started["version_to"]) == (1, 2)
    assert (started["changed_by"], started["change_reason"], started["change_action"]) == ("alice", "urgent", "claim")
    assert started["context"] == {"ticket": 7}
    assert (str(started["ip_address"]), started["user_agent"]) == ("192.0.2.7", "agent/1")
    assert started["created_at"]
    assert started["id"] != created["id"]


# ── 3. Performance tables ───────────────────────────────────────────────────────────────────────────────────────────


def test_3_the_cache_keeps_a_state_until_it_expires(seed):
    """It has the seed's columns, the owner and the version; accesses are counted."""
    kept = {name: kind for name, (kind, _, _) in columns(seed, "assessment_state_cache").items()}
    assert {name: kept[name] for name in CACHE_COLUMNS} == CACHE_COLUMNS
    assert kept.keys() - CACHE_COLUMNS.keys() == {"job_id", "owner_id", "version", "row_mark"}
    create(seed, "a-1")
    create(seed, "a-2")
    seed.execute("SELECT put_cached_state('a-1', %s, 60)", [Jsonb({"state": "pending"})])
    seed.execute("SELECT put_cached_state('a-2', %s, 0)", [Jsonb({"state": "pending"})])

    found = [one(seed, "SELECT get_cached_state(%s) AS it", name)["it"] for name in ("a-1", "a-1", "a-2", "a-3")]

    assert found == [{"state": "pending"}, {"state": "pending"}, None, None]
    assert one(seed, "SELECT access_count FROM assessment_state_cache WHERE assessment_id = 'a-1'")["access_count"] == 2


def test_3_metrics_are_written_by_each_ending_and_by_services(seed):
    """The seed's three types are written if there is a value, and services write any type."""
    columns_found = {name: kind for name, (kind, _, _) in columns(seed, "assessment_metrics").items()}
    assert columns_found == {**METRIC_COLUMNS, "owner_id": "uuid"}
    create(seed)
    update(seed, "processing", 1)
    update(seed, "failed", 2, error_message="boom")
    seed.execute(
        "INSERT INTO assessment_metrics (assessment_id, metric_type, metric_value) VALUES ('a-1', 'tokens', 9)"
    )

    rows = seed.execute(
        "SELECT metric_type, metric_value FROM assessment_metrics WHERE assessment_id = 'a-1'"
    ).fetchall()
    found = {row["metric_type"]: row["metric_value"] for row in rows}

    assert found.keys() == {"processing_time", "error_count", "tokens"}
    assert 0 <= found["processing_time"] < 60_000
    assert (found["error_count"], found["tokens"]) == (1, 9)


def test_3_the_queue_shows_each_assessment_where_it_stands(seed):
    """Each assessment is listed once, by the seed's three types, and always agrees with its state."""
    assert {name: kind for name, (kind, _, _) in columns(seed, "assessment_queue").items()} == QUEUE_COLUMNS
    for name in ("waiting", "failing", "done"):
        create(seed, name)
    update(seed, "processing", 1, "failing")
    update(seed, "failed", 2, "failing", error_message="boom")
    update(seed, "pending", 3, "failing")
    update(seed, "cancelled", 1, "done")

    rows = {row["assessment_id"]: row for row in seed.execute("SELECT * FROM assessment_queue")}

    assert {name: row["queue_type"] for name, row in rows.items()} == {
        "waiting": "processing",
        "failing": "retry",
        "done": "cleanup",
    }
    assert (rows["failing"]["processing_attempts"], rows["failing"]["error_message"]) == (1, "boom")
    assert rows["done"]["scheduled_at"] - state(seed, "done")["completed_at"] == timedelta(days=30)


@pytest.mark.parametrize("statement", ["DELETE FROM assessment_queue", "UPDATE assessment_queue SET priority = 1"])
def test_3_nobody_changes_an_assessment_through_the_queue(seed, statement):
    """The queue is a view, not a second copy."""
    create(seed)

    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        seed.execute(statement)


# ── 5. Views ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_5_active_assessments_are_listed_by_priority_and_age(seed):
    """It lists only pending and processing assessments, with their waiting time."""
    for name, priority in (("later", 9), ("first", 1), ("ended", 1)):
        seed.execute("SELECT create_assessment(%s, '{}', %s)", [name, priority])
    update(seed, "cancelled", 1, "ended")

    rows = seed.execute("SELECT * FROM active_assessments").fetchall()

    assert [row["assessment_id"] for row in rows] == ["first", "later"]
    assert list(rows[0]) == [
        "assessment_id",
        "state",
        "progress",
        "created_at",
        "updated_at",
        "priority",
        "timeout_seconds",
        "duration_seconds",
    ]
    assert rows[0]["duration_seconds"] >= 0


def test_5_the_summary_counts_endings(seed):
    """Counts are by state, with average progress and duration."""
    for name in ("a", "b", "c"):
        create(seed, name)
    update(seed, "cancelled", 1, "a")
    update(seed, "cancelled", 1, "b")

    (row,) = seed.execute("SELECT * FROM completed_assessments_summary").fetchall()

    assert (row["state"], row["count"], row["avg_progress"]) == ("cancelled", 2, 100)
    assert row["earliest_completed"] < row["latest_completed"]
    assert row["avg_duration_seconds"] > 0


def test_5_the_hours_count_states(seed):
    """Counts are by the hour of creation."""
    create(seed, "a")
    create(seed, "b")

    rows = seed.execute("SELECT hour = date_trunc('hour', now()) AS now, state, count FROM assessment_stats_by_hour")

    assert [tuple(row.values()) for row in rows] == [(True, "pending", 2)]


# ── 6. Stored procedures ────────────────────────────────────────────────────────────────────────────────────────────


def test_6_the_signatures_are_the_seeds(seed):
    """Names, types, order, defaults and results are the same, so services need not change their calls."""
    rows = seed.execute(
        "SELECT proname::text AS name, pg_get_function_arguments(oid) AS arguments, "
        "pg_get_function_result(oid) AS result FROM pg_proc "
        "WHERE pronamespace = 'assessments'::regnamespace AND proname ~ '^(create|update|cleanup)_.*assessment'"
    )

    assert {row["name"]: (row["arguments"], row["result"]) for row in rows} == SIGNATURES


def test_6_create_makes_a_pending_assessment(seed):
    """It has the given values and the seed's defaults."""
    job_id = one(seed, "SELECT create_assessment('a-1', %s, 2, 60) AS id", Jsonb(REQUEST))["id"]
    create(seed, "a-2")

    first, second = state(seed), state(seed, "a-2")
    assert (first["id"], first["state"], first["version"], first["progress"]) == (job_id, "pending", 1, 0)
    assert (first["request_data"], first["priority"], first["timeout_seconds"]) == (REQUEST, 2, 60)
    assert (second["priority"], second["timeout_seconds"], second["max_retries"]) == (5, 300, 3)


def test_6_update_carries_an_assessment_through_its_life(seed):
    """Each call increases the version by one and sets the given values and the times."""
    create(seed)

    assert update(seed, "processing", 1, progress=10) is True
    assert update(seed, "processing", 2, progress=60) is True
    assert update(seed, "completed", 3, result_data={"score": 0.9}) is True

    row = state(seed)
    assert (row["state"], row["version"], row["progress"], row["result_data"]) == ("completed", 4, 100, {"score": 0.9})
    assert row["created_at"] < row["started_at"] < row["completed_at"] <= row["updated_at"]
    assert row["request_data"] == REQUEST


def test_6_cleanup_deletes_one_batch_of_what_ended_long_ago(seed):
    """It returns how many. Repeated calls delete the rest, and then none."""
    for number in range(3):
        create(seed, f"old-{number}")
        update(seed, "cancelled", 1, f"old-{number}")
    create(seed, "young")

    counts = [one(seed, "SELECT cleanup_old_assessments(0, 2) AS n")["n"] for _ in range(3)]

    assert counts == [2, 1, 0]
    assert one(seed, "SELECT cleanup_old_assessments() AS n")["n"] == 0
    assert [row["assessment_id"] for row in seed.execute("SELECT assessment_id FROM assessment_states")] == ["young"]


# ── 7. Initialization ───────────────────────────────────────────────────────────────────────────────────────────────


def test_7_no_extension_is_needed(seed):
    """``uuid-ossp`` and ``pgcrypto`` are not needed, because the server itself creates ids."""
    rows = seed.execute("SELECT extname::text AS name FROM pg_extension")

    assert {row["name"] for row in rows}.isdisjoint({"uuid-ossp", "pgcrypto"})
    assert create(seed).version == 7
