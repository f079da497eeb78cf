"""Real processes with clocks that lie, killed wherever they are: limits hold and totals are the sum of the ledger."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

import pytest

from gristmill_testing.waiting import until
from tests.support.admission import Rows
from tests.support.paths import ROOT

WINDOW = timedelta(seconds=1)
REQUESTS, TOKENS = 60, 30_000


def asking(url: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start the processes that ask."""
    command = [sys.executable, "-m", "tests.support.askers", url, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def most_in_any_window(rows: Rows, what: str, where: str = "true") -> int:
    """Return the most that any window of the ledger has, by the times of the reservations."""
    [row] = rows.ask(
        f"""SELECT max(n)::int AS n FROM (
              SELECT sum({what}) OVER (ORDER BY created_at RANGE BETWEEN %s PRECEDING AND CURRENT ROW) AS n
                FROM llm.calls WHERE {where}) AS w""",
        WINDOW - timedelta(microseconds=1),
    )
    most: int = row["n"] or 0
    return most


def counters(rows: Rows) -> list[dict[str, object]]:
    """Return what is counted, by limit, owner and bucket."""
    return rows.ask(
        "SELECT limit_id, subject, bucket, amount FROM llm.window_counts WHERE amount <> 0 ORDER BY 1, 2, 3"
    )


@contextmanager
def all_asking(url: str) -> Iterator[None]:
    """Have six processes ask as much as they can."""
    asks = asking(url, "load")
    assert asks.stdout is not None
    try:
        assert asks.stdout.readline() == "all ask\n"
        yield
    finally:
        asks.communicate()


@pytest.fixture
def limited(rows: Rows) -> Rows:
    """Limits of every kind and three budgets."""
    rows.limit("requests", REQUESTS, 1, provider="p")
    rows.limit("tokens", TOKENS, 1)
    rows.limit("concurrency", 10, None, provider="q")
    rows.limit("requests", 200, 1, per_owner=True)
    rows.budget("day", usd=1_000)
    rows.budget("total", tokens=10**12, window="total")
    rows.budget("stage", usd=1_000, scope="stage", scope_value="s", zone="Asia/Tokyo")
    return rows


def test_100_crashes_lose_no_money_and_no_limit(limited, database_url):
    """C6, C9, C25: killed between reserving, calling and settling, nothing is lost or counted twice, nothing hangs."""
    crashing = asking(database_url, "crash", "--runs", "100")

    assert crashing.wait(timeout=300) == 0
    crashing.communicate()

    assert limited.differences() == []
    assert most_in_any_window(limited, "1", "provider = 'p'") <= REQUESTS
    [row] = limited.ask("SELECT count(*)::int AS calls, count(DISTINCT id)::int AS ids FROM llm.calls")
    assert row["calls"] == row["ids"] > 100
    assert limited.states()["reserved"] > 0
    limited.ask("UPDATE runtime.workers SET heartbeat_at = now() - interval '2 hours'")
    while limited.ask("SELECT llm.orphan_calls(p_grace => '0') AS n")[0]["n"]:
        pass
    assert "reserved" not in limited.states()
    assert limited.differences() == []
    assert limited.totals()["day"]["reserved_usd"] == 0
    assert limited.ask("SELECT 1 AS one FROM llm.window_counts WHERE bucket = 0 AND amount <> 0") == []


async def test_six_processes_keep_limits_whatever_their_clocks_say(limited, database_url):
    """C5, C23, C25: clocks that are hours apart; what counts is when the database reserved each call. No deadlock."""
    windows = "SELECT count(*)::int AS n FROM llm.calls WHERE provider = 'p'"
    with all_asking(database_url):
        await until(lambda: limited.ask(windows)[0]["n"] > 5 * REQUESTS, within=120)

    assert most_in_any_window(limited, "1", "provider = 'p'") <= REQUESTS
    assert limited.ask("SELECT count(DISTINCT worker_id)::int AS n FROM llm.calls") == [{"n": 6}]
    assert limited.differences() == []
    limited.ask("SELECT pg_stat_force_next_flush()")
    assert limited.ask("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [
        {"deadlocks": 0}
    ]


async def test_limits_and_budgets_are_set_while_calls_are_made(rows, database_url):
    """C6: none that is under way at that moment is missed: from its first moment each counts what the ledger has."""

    def calls() -> int:
        [row] = rows.ask("SELECT count(*)::int AS n FROM llm.calls")
        made: int = row["n"]
        return made

    with all_asking(database_url):
        for n in range(20):
            least = calls() + 1
            rows.limit("requests", 10**6, 3_600 + n)
            rows.limit("concurrency", 10**6, None, stage=f"s{n}" if n else None)
            rows.limit("tokens", 10**9, 3_600 + n, per_owner=True)
            rows.budget(f"b{n}", tokens=10**12, window="total")
            await until(partial(lambda most: calls() >= most, least), within=60)

    assert rows.differences() == []
    counted = counters(rows)
    rows.ask("SELECT llm.recount_limit(l) FROM llm.limits AS l")
    assert counters(rows) == counted
    assert len(counted) > 60
