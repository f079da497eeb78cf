"""Admission on real Postgres: the rows, several processes' worth of askers, a clock that the test moves."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.support.admission import Clock, PriceList, Rows, standing_clock
from workers.llm.admission.postgres_admission import PostgresAdmission
from workers.runtime.database import Database

StartAdmission = Callable[..., Awaitable[PostgresAdmission]]


@pytest.fixture
def rows(psql: "psycopg.Connection[dict[str, Any]]") -> Rows:
    """The tables of admission."""
    return Rows(psql)


@pytest.fixture
def clock(psql: "psycopg.Connection[dict[str, Any]]") -> Iterator[Clock]:
    """The database's clock, which stands at noon until the test moves it."""
    with standing_clock(psql) as clock:
        yield clock


@pytest.fixture
async def admission(database: Database) -> AsyncIterator[PostgresAdmission]:
    """Admission of one process, which knows prices."""
    admission = PostgresAdmission(database, None, PriceList())
    yield admission
    await admission.aclose()


@pytest.fixture
async def start(database_url: str) -> AsyncIterator[StartAdmission]:
    """Start the admissions of further processes, each with connections of its own."""
    started: list[tuple[PostgresAdmission, Database]] = []

    async def begin(worker_id: Any = None, prices: Any = None) -> PostgresAdmission:
        database = Database(database_url, changed_by="worker:test")
        admission = PostgresAdmission(database, worker_id, prices or PriceList())
        started.append((admission, database))
        return admission

    yield begin
    for admission, database in started:
        await admission.aclose()
        await database.close()
