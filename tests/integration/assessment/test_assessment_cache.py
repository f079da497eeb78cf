"""The cache of the assessment store never returns a state that is older than the row."""

from typing import Any

import pytest
from psycopg import errors
from psycopg.types.json import Jsonb

from tests.support.assessment_services import (
    ALICE,
    RUNS_PER_RACE,
    Connection,
    Speak,
    create,
    one,
    refused,
    run_together,
)


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
def test_the_cache_never_returns_an_older_state_than_the_row(alice: Connection, psql: Connection, change: str) -> None:
    """This holds for changes by function and by hand, for the function's result and for the table."""
    create(alice)
    alice.execute("SELECT put_cached_state('a-1', '{\"state\": \"pending\"}', 600)")
    assert cached(alice) == {"state": "pending"}
    assert one(alice, "SELECT state_data FROM assessment_state_cache") == {"state": "pending"}

    psql.execute(change)

    assert cached(alice) is None
    assert one(alice, "SELECT count(*) FROM assessment_state_cache") == 0


def test_the_cache_forgets_a_change_within_the_transaction_that_put(alice: Connection) -> None:
    """Two versions of one transaction have the same time and the same transaction id."""
    with alice.transaction():
        create(alice)
        alice.execute("SELECT put_cached_state('a-1', '{\"version\": 1}')")
        assert cached(alice) == {"version": 1}
        alice.execute("SELECT update_assessment_state('a-1', 'processing', 1)")
        assert cached(alice) is None


def test_a_deleted_assessment_created_again_has_nothing_cached(alice: Connection, psql: Connection) -> None:
    """An entry of the deleted assessment does not count for the new one, and a missing assessment gets no entry."""
    create(alice)
    alice.execute("SELECT put_cached_state('a-1', '{\"old\": 1}', 600)")
    psql.execute("DELETE FROM assessments.assessment_states")
    alice.execute("SELECT put_cached_state('a-1', '{\"late\": 1}', 600)")
    assert cached(alice) is None

    create(alice)

    assert cached(alice) is None


def test_a_state_of_an_older_version_is_not_put(alice: Connection) -> None:
    """A client that read an older version passes that version."""
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
    """An entry lives for at most a day."""
    create(alice)
    with refused(errors.InvalidParameterValue, line):
        alice.execute(f"SELECT put_cached_state({arguments})")


def test_whoever_reads_and_puts_while_another_updates_never_caches_the_past(speak: Speak, psql: Connection) -> None:
    """For any interleaving, the cache afterwards returns the row's version or nothing."""
    reader, writer = speak(ALICE), speak(ALICE)
    kept = 0
    for run in range(RUNS_PER_RACE):
        name = f"race-{run}"
        create(writer, name)

        def read_and_put(name: str = name) -> None:
            for _ in range(5):
                version = one(reader, "SELECT version FROM assessment_states WHERE assessment_id = %s", name)
                reader.execute("SELECT put_cached_state(%s, %s, 600)", [name, Jsonb({"version": version})])

        def change(name: str = name) -> None:
            for version in range(1, 5):
                writer.execute("SELECT update_assessment_state(%s, 'processing', %s)", [name, version])

        results = run_together(read_and_put, change)

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
