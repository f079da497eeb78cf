"""If Postgres cannot send a row (its text is over 1 GB), only its job fails: the other jobs of the batch run."""

import uuid
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from gristmill_testing.waiting import until
from tests.support.fakes.road import FakeRoad
from tests.support.kernel import PLAIN, dispatching, leader, passes, started_worker
from tests.support.poison import without_checks
from workers.runtime.database import is_caused_by_a_row
from workers.runtime.store.claim import claim, claim_without_payload
from workers.runtime.store.read import JobFilter, get_job, list_jobs
from workers.runtime.store.tables import unreadable

# 630 kB to store; each number is 16,385 characters as text.
TOO_LONG = "(SELECT jsonb_agg(1e-16383::numeric) FROM generate_series(1, 70000))"
SAID = "string buffer exceeds maximum allowed length"

Psql = psycopg.Connection[dict[str, Any]]


@pytest.fixture
def psql(fresh_database_url: str) -> Any:
    """A database without the rules that refuse such rows."""
    with psycopg.connect(fresh_database_url, autocommit=True, row_factory=dict_row) as connection:
        without_checks(connection, "proving.plain_jobs", "result", "created_at")
        connection.execute("ALTER TABLE proving.plain_jobs ALTER COLUMN result TYPE jsonb")
        yield connection


@pytest.fixture
def database_url(psql: Psql, fresh_database_url: str) -> str:
    return fresh_database_url


def plant(psql: Psql) -> uuid.UUID:
    row = psql.execute(f"INSERT INTO proving.plain_jobs (result) SELECT {TOO_LONG} RETURNING id".encode()).fetchone()
    assert row is not None
    return row["id"]  # type: ignore[no-any-return]


async def test_such_a_row_fails_alone_and_the_others_of_its_batch_run(psql, jobs, database_url, registry):
    """Of four claimed jobs three complete; the fourth fails with a clear reason and no attempt spent."""
    healthy = await jobs.ready(count=2)
    poisoned = plant(psql)
    healthy += await jobs.ready(count=1)

    async with started_worker(database_url, registry) as worker:
        await worker.run(await jobs.dispatched(count=0))

    assert await jobs.count(status="completed") == len(healthy)
    [row] = psql.execute(
        "SELECT status, error_message, retry_count FROM proving.plain_jobs WHERE id = %s", [poisoned]
    ).fetchall()
    assert (row["status"], row["retry_count"]) == ("failed", 0)
    assert row["error_message"].startswith("its row cannot be read: ")
    assert SAID in row["error_message"]
    assert await jobs.actions(poisoned) == ["enqueue", "claim", "fail"]


async def test_the_claim_of_the_batch_is_rolled_back_and_says_why(psql, jobs, plain):
    """The whole statement fails with an error that one row can cause; a claim without payload succeeds."""
    poisoned = plant(psql)
    tickets = await jobs.dispatched(count=2)

    async with jobs.database.kernel() as conn:
        with pytest.raises(psycopg.Error, match=SAID) as caught:
            await claim(conn, plain, tickets, owner=jobs.owner)
    assert is_caused_by_a_row(caught.value)
    assert await jobs.count(status="pending") == 3

    alone = [ticket for ticket in tickets if ticket[0] == poisoned]
    async with jobs.database.kernel() as conn:
        [job] = await claim_without_payload(conn, plain, alone, owner=jobs.owner)
        assert await claim_without_payload(conn, plain, alone, owner=jobs.owner) == []
    assert (job.id, job.status, unreadable(job)) == (poisoned, plain.step.running, None)


async def test_the_leader_leads_on_and_people_list_and_show_it(psql, jobs, database_url, registry):
    """Dispatch and lists read only the lifecycle columns of a row."""
    await jobs.worker()
    poisoned = plant(psql)
    await jobs.ready(count=3)
    road = FakeRoad()

    async with dispatching(database_url, registry, road, name="first"):
        await until(lambda: len(road.of(PLAIN)) == 4)
        await passes(road)
        assert await leader(jobs) == "first"

    async with jobs.database.kernel() as conn:
        assert len(await list_jobs(conn, JobFilter(), limit=10)) == 4
        assert await get_job(conn, poisoned) is not None


async def test_a_table_whose_rows_cannot_be_picked_does_not_stop_the_others(psql, jobs, database_url, registry):
    """If one row makes the statement fail, its table pauses; the leader stays and dispatches other tables."""
    await jobs.worker()
    await jobs.ready(count=1)
    keyed = await jobs.ready("proving.keyed", count=2, key="a")
    psql.execute(
        "CREATE FUNCTION proving.refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN RAISE numeric_value_out_of_range; END$$"
    )
    psql.execute(
        "CREATE TRIGGER refuse BEFORE UPDATE ON proving.plain_jobs FOR EACH ROW EXECUTE FUNCTION proving.refuse()"
    )
    road = FakeRoad()

    async with dispatching(database_url, registry, road, name="first"):
        await until(lambda: len(road.of("proving.keyed")) == len(keyed))
        await passes(road)

        assert await leader(jobs) == "first"
    assert road.of(PLAIN) == []


def test_show_tells_why_a_result_is_left_out(psql, gristmill):
    """`jobs show` works for any content of the row, as text and as JSON."""
    poisoned = plant(psql)

    for form in ((), ("--json",)):
        code, output, said = gristmill("jobs", "show", str(poisoned), *form)
        assert (code, said) == (0, "")
        assert "its JSON has more than 16,777,216 bytes" in output
