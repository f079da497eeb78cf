"""What the tests of admission arrange with: calls, limits, budgets, a price list, a clock that stands still."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
from pydantic_core import to_json

from workers.llm.admission.prices import Price
from workers.llm.admission.statements import Question, path_key, paths_of
from workers.llm.calls import Call, Caller, Kind, Lane, Usage

# Per million tokens: a call of 1,000 tokens in and 1,000 out costs 0.003.
PRICE = Price(input_per_million=Decimal(1), output_per_million=Decimal(2), cached_input_per_million=Decimal("0.1"))
NOON = datetime.fromisoformat("2026-11-30T12:00:00+00:00")

REAL_CLOCK = """
    CREATE OR REPLACE FUNCTION llm.clock() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT clock_timestamp()'
"""
TEST_CLOCK = """
    CREATE TABLE public.test_clock (at timestamptz);
    INSERT INTO public.test_clock VALUES (clock_timestamp());
    CREATE OR REPLACE FUNCTION llm.clock() RETURNS timestamptz LANGUAGE sql VOLATILE AS
      'SELECT at FROM public.test_clock'
"""


class PriceList:
    """Knows one price; no model whose name begins with ``unknown`` has it."""

    def of(self, provider: str, model: str, kind: Kind) -> Price | None:
        return None if model.startswith("unknown") else PRICE


def call(
    provider: str = "p",
    model: str = "m",
    *,
    stage: str | None = "scoring.score",
    owner: UUID | None = None,
    project: UUID | None = None,
    profile: UUID | None = None,
    job: UUID | None = None,
    version: int | None = None,
    tokens: int = 10,
    output: int = 0,
    kind: Kind = "chat",
    lane: Lane = "normal",
) -> Call:
    """Return a call that is about to be made."""
    caller = Caller(
        stage=stage,
        owner_id=owner,
        project_id=project,
        profile_id=profile,
        job_id=job,
        version=version,
        attempt=None if job is None else 1,
    )
    return Call(
        caller=caller, kind=kind, provider=provider, model=model, route="r", input_tokens=tokens, output_tokens=output,
        lane=lane,
    )  # fmt: skip


def usage(tokens: int | None = 10, output: int | None = 0, **more: Any) -> Usage:
    """Return what a call used."""
    return Usage(input_tokens=tokens, output_tokens=output, seconds=0.1, **more)


class Rows:
    """The tables of admission, as a person in psql has them."""

    def __init__(self, connection: "psycopg.Connection[dict[str, Any]]") -> None:
        self.connection = connection

    def ask(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """Run one statement; return its rows."""
        cursor = self.connection.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []

    def clear(self) -> None:
        """Forget all limits, budgets and calls."""
        for table in ("limits", "budgets", "calls", "cooldowns"):
            self.ask(f"DELETE FROM llm.{table}")

    def limit(self, measure: str, at_most: int, window: int | None = 60, **more: Any) -> UUID:
        """Set a limit; return its id."""
        return self._insert("limits", measure=measure, at_most=at_most, window_seconds=window, **more)

    def budget(self, name: str = "b", **more: Any) -> UUID:
        """Set a budget, of everything and for a day unless told otherwise."""
        row = {"name": name, "scope": "all", "window": "day", "then": "stop"} | more
        return self._insert("budgets", **row)

    def _insert(self, table: str, **row: Any) -> UUID:
        columns = ", ".join(f'"{name}"' for name in row)
        places = ", ".join("%s" for _ in row)
        [made] = self.ask(f"INSERT INTO llm.{table} ({columns}) VALUES ({places}) RETURNING id", *row.values())
        found: UUID = made["id"]
        return found

    def admit(self, *calls: Call, worker: UUID | None = None) -> list[dict[str, Any] | None]:
        """Ask for ``calls`` as a process does; return for each what keeps it back, or None."""
        prices = PriceList()
        questions = [Question(one, prices.of(one.provider, one.model, one.kind)) for one in calls]
        paths, numbers = paths_of(calls)
        asked = to_json([one.row(numbers[path_key(one.call)]) for one in questions]).decode()
        [row] = self.ask("SELECT llm.admit(%s::jsonb, %s::jsonb, %s::uuid) AS told", paths, asked, worker)
        told = row["told"]
        by = {place: told["causes"][cause] for place, cause in zip(told["refused"], told["by"], strict=True)}
        return [by.get(place) for place in range(1, len(calls) + 1)]

    def settle(self, *calls: Call, became: str = "settled", **end: Any) -> int:
        """Record that ``calls`` have ended; return of how many that was news."""
        paths, _ = paths_of(calls)
        ends = to_json([{"id": one.id, "as": became, **end} for one in calls]).decode()
        [row] = self.ask("SELECT llm.settle_calls(%s::jsonb, %s::jsonb) AS told", paths, ends)
        news: int = row["told"]["news"]
        return news

    def states(self) -> dict[str, int]:
        """Return how many calls there are by state."""
        return {row["state"]: row["n"] for row in self.ask("SELECT state, count(*) AS n FROM llm.calls GROUP BY state")}

    def used(self, limit: UUID) -> int:
        """Return what is counted for a limit, in all of its buckets."""
        [row] = self.ask("SELECT coalesce(sum(amount), 0)::int AS n FROM llm.window_counts WHERE limit_id = %s", limit)
        used: int = row["n"]
        return used

    def totals(self) -> dict[str, dict[str, Any]]:
        """Return the totals of the present windows by budget."""
        rows = self.ask(
            "SELECT b.name, t.* FROM llm.budgets AS b JOIN llm.budget_totals AS t ON t.budget_id = b.id "
            "WHERE t.window_start = llm.window_start(b.window, b.zone, llm.clock())"
        )
        return {row["name"]: row for row in rows}

    def differences(self) -> list[dict[str, Any]]:
        """Return the totals that are not the sum of the ledger."""
        return self.ask("SELECT * FROM llm.budget_differences")

    def worker(self, *, lease: float = 60.0, silent: float = 0.0) -> UUID:
        """Write the row of a worker process that has been silent for so long."""
        worker_id = uuid.uuid4()
        self.ask(
            "INSERT INTO runtime.workers (id, name, queues, slots, lease_seconds, heartbeat_at) "
            "VALUES (%s, 'w', '{}', 1, %s, now() - make_interval(secs => %s))",
            worker_id,
            lease,
            silent,
        )
        return worker_id


class Clock:
    """The clock of the database, as the test sets it."""

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self._connection = connection

    def set(self, at: datetime) -> None:
        self._connection.execute("UPDATE public.test_clock SET at = %s", [at])

    def advance(self, seconds: float) -> None:
        self._connection.execute("UPDATE public.test_clock SET at = at + %s", [timedelta(seconds=seconds)])

    def now(self) -> datetime:
        row = self._connection.execute("SELECT at AS at FROM public.test_clock").fetchone()
        found: datetime = row["at"] if isinstance(row, dict) else row[0]  # type: ignore[index]
        return found


@contextmanager
def standing_clock(connection: "psycopg.Connection[Any]") -> Iterator[Clock]:
    """Have the database's clock stand at noon, and give it back."""
    connection.execute(TEST_CLOCK)
    try:
        clock = Clock(connection)
        clock.set(NOON)
        yield clock
    finally:
        connection.execute(REAL_CLOCK)
        connection.execute("DROP TABLE public.test_clock")
