"""A batch costs its own size, however long the ledger is and whatever its statistics say."""

import pytest

from tests.support.admission import call

ROWS, BATCH = 20_000, 64
FILL = f"""
    INSERT INTO llm.calls (id, created_at, route, provider, model, kind, state, estimated_input, usd)
    SELECT uuidv7(), clock_timestamp() - make_interval(secs => n / 100.0), 'r', 'p', 'm', 'chat', 'settled', 1, 0.01
      FROM generate_series(1, {ROWS}) AS n"""
READ = """
    SELECT coalesce(sum(seq_tup_read) FILTER (WHERE relname LIKE 'calls%'), 0)::int AS scans,
           coalesce(sum(seq_tup_read) FILTER (WHERE relname = 'window_counts'), 0)::int AS windows,
           coalesce(sum(idx_tup_fetch) FILTER (WHERE relname LIKE 'calls%'), 0)::int AS rows
      FROM pg_stat_xact_user_tables WHERE schemaname = 'llm'"""


def reads(rows):
    """Return what this session has read so far and not yet reported."""
    return rows.ask(READ)[0]


@pytest.fixture
def filled(rows):
    """A ledger that says of itself that it is empty, limits of many owners, budgets of many projects."""
    rows.limit("requests", 10**6)
    rows.limit("tokens", 10**9, per_owner=True)
    rows.budget("all", usd=10**6)
    rows.ask("INSERT INTO llm.limits (owner_id, measure, at_most, window_seconds) "
             "SELECT gen_random_uuid(), 'requests', 5, 60 FROM generate_series(1, 500)")  # fmt: skip
    rows.ask('INSERT INTO llm.budgets (name, scope, scope_value, "window", tokens, "then") '
             "SELECT 'b' || n, 'project', n, 'day', 5, 'stop' FROM generate_series(1, 500) AS n")  # fmt: skip
    rows.ask("ANALYZE llm.calls")
    rows.ask(FILL)
    return rows


@pytest.mark.parametrize("known", [True, False], ids=["with its time", "by its id alone"])
def test_reserving_and_settling_read_the_rows_of_their_calls_alone(filled, psql, known):
    """Neither the ledger nor the counters are ever read as a whole."""
    calls = [call() for _ in range(BATCH)]

    with psql.transaction():
        before = reads(filled)
        assert filled.admit(*calls) == [None] * BATCH
        [row] = filled.ask("SELECT created_at AS at FROM llm.calls WHERE id = %s", calls[0].id)
        assert filled.settle(*calls, input=5, **({"at": row["at"]} if known else {})) == BATCH
        after = reads(filled)

    assert (after["scans"], after["windows"]) == (before["scans"], before["windows"])
    assert after["rows"] - before["rows"] <= 3 * BATCH


def test_orphans_are_found_without_reading_the_ledger(filled, psql):
    """By the index of what is reserved."""
    filled.admit(*(call() for _ in range(BATCH)))

    with psql.transaction():
        before = reads(filled)
        filled.ask("SELECT llm.orphan_calls(p_grace => '0')")
        after = reads(filled)

    assert after["scans"] == before["scans"]
    assert after["rows"] - before["rows"] <= 10 * BATCH
