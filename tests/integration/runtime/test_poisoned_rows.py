"""If a row cannot be decoded, only its job fails: other jobs run, the leader keeps leading, every list shows it."""

import json
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import text

from cli.following import follow_job
from gristmill_testing.waiting import until
from tests.support.fakes.road import FakeRoad
from tests.support.kernel import PLAIN, dispatching, leader, passes, started_worker
from tests.support.poison import POISONS, Poison, without_checks
from workers.runtime.handler.errors import Permanent, outcome_of
from workers.runtime.handler.outcomes import Fail
from workers.runtime.store.claim import read_claimed_before
from workers.runtime.store.intervene import cancel, retry
from workers.runtime.store.read import JobFilter, get_job, list_jobs, read_own_values
from workers.runtime.store.rescue import rescue_expired
from workers.runtime.store.stages import list_stages
from workers.runtime.store.tables import unreadable
from workers.runtime.undecodable import Undecodable

Psql = psycopg.Connection[dict[str, Any]]


@pytest.fixture
def database_url(fresh_database_url: str) -> str:
    """A database without the CHECKs that refuse such rows."""
    with psycopg.connect(fresh_database_url, autocommit=True) as connection:
        without_checks(connection, "proving.plain_jobs", "created_at", "updated_at", "result")
    return fresh_database_url


@pytest.fixture
def psql(database_url: str) -> Iterator[Psql]:
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        yield connection


def plant(psql: Psql, poison: Poison) -> uuid.UUID:
    """Insert one job with the poisoned value."""
    row = psql.execute(
        f"INSERT INTO proving.plain_jobs ({poison.column}) SELECT {poison.value} RETURNING id".encode()
    ).fetchone()
    assert row is not None
    return row["id"]  # type: ignore[no-any-return]


@pytest.fixture
def poisoned(psql: Psql) -> dict[uuid.UUID, Poison]:
    """Insert one job of every kind of poison."""
    return {plant(psql, poison): poison for poison in POISONS.values()}


@pytest.mark.parametrize("kind", ["digits", "far"])
async def test_a_poisoned_job_of_a_batch_fails_alone_and_at_once(jobs, psql, database_url, registry, kind):
    """In one batch the other jobs complete; the poisoned one fails with the reason and spends no attempt."""
    healthy = await jobs.ready(count=6)
    poisoned = plant(psql, POISONS[kind])
    healthy += await jobs.ready(count=5)

    async with started_worker(database_url, registry) as worker:
        await worker.run(await jobs.dispatched(count=0))

    assert await jobs.count(status="completed") == len(healthy)
    row = await jobs.row(poisoned)
    assert (row["status"], row["error_message"], row["retry_count"]) == ("failed", POISONS[kind].said, 0)
    assert await jobs.actions(poisoned) == ["enqueue", "claim", "fail"]


async def test_all_kinds_at_once_fail_in_the_batch_of_their_neighbours(jobs, poisoned, database_url, registry):
    """Each poisoned job fails with its own reason, the others complete; a follower sees all of them end."""
    healthy = await jobs.ready(count=20)

    async with started_worker(database_url, registry) as worker:
        await worker.run(await jobs.dispatched(count=0))

    assert await jobs.count(status="completed") == len(healthy)
    for job_id, poison in poisoned.items():
        assert (await jobs.row(job_id))["error_message"] == poison.said
        said: list[str] = []
        assert not (await follow_job(database_url, job_id, print_line=said.append)).succeeded
        assert poison.said in said[-1]


async def test_a_claim_whose_answer_was_lost_tells_of_the_rows_too(jobs, plain, poisoned):
    """Jobs that are found again after a broken connection are read with the same loaders."""
    tickets = await jobs.dispatched(count=1)
    await jobs.claim(tickets)

    async with jobs.database.kernel() as conn:
        found = await read_claimed_before(conn, plain, tickets, owner=jobs.owner)

    assert {job.id: unreadable(job) for job in found if job.id in poisoned} == {
        job_id: poison.said for job_id, poison in poisoned.items()
    }
    assert [unreadable(job) for job in found if job.id not in poisoned] == [None]


async def test_the_leader_leads_on_and_dispatches_all_of_them(jobs, poisoned, database_url, registry):
    """Every picked job is published, and the leader does not change."""
    await jobs.worker()
    await jobs.ready(count=12)
    road = FakeRoad()

    async with dispatching(database_url, registry, road, name="first"):
        await until(lambda: len(road.of(PLAIN)) == 12 + len(poisoned))
        await passes(road)

        assert await leader(jobs) == "first"
    assert len({job.id for job in road.of(PLAIN)}) == 12 + len(poisoned)


async def test_lists_and_interventions_reach_past_them(jobs, plain, poisoned):
    """Each is listed, shown, cancelled and retried like any other, with the reason instead of the value."""
    await jobs.ready(count=2)

    async with jobs.database.kernel() as conn:
        assert len(await list_jobs(conn, JobFilter(), limit=100)) == 2 + len(poisoned)
        assert len(await list_stages(conn)) > 0
        for job_id, (column, _, said) in poisoned.items():
            found, own = await get_job(conn, job_id), await read_own_values(conn, plain.model, job_id)
            assert found is not None
            shown = own["result"] if column == "result" else getattr(found, column)
            assert f"{column} cannot be read: {shown.reason}" == said
        assert await cancel(conn, plain.model, list(poisoned), reason="poison") == set(poisoned)
        assert await retry(conn, plain.model, list(poisoned), reason="poison") == set()


async def test_sessions_read_past_them_too(jobs, poisoned):
    """Sessions of SQLAlchemy use the same loaders."""
    async with jobs.database.session() as session:
        rows = (await session.execute(text("SELECT created_at, result FROM proving.plain_jobs"))).all()

    assert sum(isinstance(value, Undecodable) for row in rows for value in row) == len(poisoned)


@pytest.mark.parametrize(
    "arguments", [("jobs", "list"), ("jobs", "list", "--json"), ("stages",), ("stages", "--json"), ("jobs", "verify")]
)
def test_commands_list_them_beside_the_others(gristmill, psql, poisoned, arguments):
    """No list fails because of one row."""
    psql.execute("INSERT INTO proving.plain_jobs DEFAULT VALUES")

    code, output, said = gristmill(*arguments)

    assert (code, said) == (0, "")
    if arguments[:2] == ("jobs", "list"):
        assert all(str(job_id) in output for job_id in poisoned)
    if "--json" in arguments:
        json.loads(output)


@pytest.mark.parametrize("command", ["show", "why", "cancel"])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_commands_that_name_one_work(gristmill, poisoned, command, form):
    """The job can be shown and cancelled."""
    for job_id, poison in poisoned.items():
        code, output, said = gristmill("jobs", command, str(job_id), *form)

        assert (code, said) == (0, "")
        if command == "show":
            assert poison.said.partition("cannot be read: ")[2] in output
        if form:
            json.loads(output)


async def test_numbers_that_overflow_are_rescued_like_any_other(jobs, plain, psql):
    """2000 attempts, the longest timeout and a lease of NaN: each job of the table is rescued."""
    without_checks(psql, "proving.plain_jobs", "retry_count", "max_retries", "timeout_seconds", "deadline_at")
    without_checks(psql, "runtime.workers", "lease_seconds")
    running = [job.id for job in await jobs.running(count=4)]
    psql.execute("SET session_replication_role = replica")  # like rows from before the guards existed
    others = "UPDATE proving.plain_jobs SET {} WHERE id = %s"
    psql.execute(others.format("max_retries = 2147483647, retry_count = 2000").encode(), [running[0]])
    psql.execute(others.format("max_retries = 2147483647, retry_count = 2147483646").encode(), [running[1]])
    psql.execute(others.format("timeout_seconds = 2147483647, deadline_at = 'infinity'").encode(), [running[2]])
    psql.execute(
        "INSERT INTO runtime.workers (id, name, queues, slots, lease_seconds) "
        "VALUES (gen_random_uuid(), 'odd', '{proving}', 1, 'NaN')"
    )

    async with jobs.database.kernel() as conn:
        rescued = await rescue_expired(conn, plain, led_for=timedelta(hours=1))

    assert rescued == 4
    assert await jobs.count(status="pending") == 4


async def test_a_row_at_the_last_version_stays_and_the_others_are_freed(jobs, plain, psql):
    """It has no next version: its rescue would fail the whole batch."""
    last, *others = [job.id for job in await jobs.running(count=3)]
    psql.execute("SET session_replication_role = replica")
    psql.execute("UPDATE proving.plain_jobs SET version = 1999999999 WHERE id = %s", [last])

    async with jobs.database.kernel() as conn:
        assert await rescue_expired(conn, plain, led_for=timedelta(hours=1)) == len(others)

    assert await jobs.count(status="processing") == 1


def test_whoever_uses_such_a_value_fails_for_good_with_the_reason():
    """A handler that reads a poisoned record fails with the reason and spends no attempt."""
    value: Any = Undecodable("its JSON is nested too deeply")

    for use in (
        lambda: value["a"],
        lambda: value.get("a"),
        lambda: list(value),
        lambda: len(value),
        lambda: "a" in value,
    ):
        with pytest.raises(Permanent, match="cannot be read: its JSON is nested too deeply") as caught:
            use()
        assert isinstance(outcome_of(caught.value), Fail)
