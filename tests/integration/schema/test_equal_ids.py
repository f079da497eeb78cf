"""Two jobs with the same id in two tables: every search by id also uses the table."""

import uuid

import pytest

from workers.runtime.handler.outcomes import Complete, Fail
from workers.runtime.store.intervene import retry
from workers.runtime.store.read import JobFilter, list_jobs
from workers.runtime.store.read import history as history_of
from workers.runtime.store.settle import find_settled
from workers.runtime.store.verify import verify_history

PLAIN, KEYED, TWO = "proving.plain", "proving.keyed", "proving.first"


@pytest.fixture
async def twins(jobs):
    """A plain job that completed and a two-step job that failed in its first step, both with the same id."""
    id_ = uuid.uuid4()
    await jobs.sql("INSERT INTO proving.plain_jobs (id) VALUES (%s)", id_)
    await jobs.sql("INSERT INTO proving.two_step_jobs (id) VALUES (%s)", id_)
    [plain] = await jobs.running(PLAIN, 0)
    [two] = await jobs.running(TWO, 0)
    await jobs.settle(plain, Complete(), PLAIN)
    await jobs.settle(two, Fail("cannot be read"), TWO)
    return plain, two


async def test_each_has_its_own_history(jobs, twins):
    """A service that may read one of them does not see the history of the other."""
    plain, _ = twins
    async with jobs.database.kernel() as conn:
        found = {
            table: [(step.stage, step.new_state) for step in await history_of(conn, plain.id, table=f"proving.{table}")]
            for table in ("plain_jobs", "two_step_jobs")
        }

    assert found == {
        "plain_jobs": [(PLAIN, "pending"), (PLAIN, "processing"), (PLAIN, "completed")],
        "two_step_jobs": [(TWO, "pending"), (TWO, "processing"), (TWO, "failed")],
    }


async def test_both_are_listed_each_in_its_stage(jobs, twins):
    """A list has two rows with the id."""
    async with jobs.database.kernel() as conn:
        found = await list_jobs(conn, JobFilter(ids=[twins[0].id]), limit=10)

    assert {(job.table_name, job.stage, job.status) for job in found} == {
        ("proving.plain_jobs", PLAIN, "completed"),
        ("proving.two_step_jobs", TWO, "failed"),
    }


async def test_neither_is_taken_for_damage(jobs, twins):
    """Every job is checked against its own history."""
    async with jobs.database.kernel() as conn:
        checks = await verify_history(conn)

    assert [check for check in checks if check.violations] == []
    assert {(check.stage, check.jobs) for check in checks} == {(PLAIN, 1), (TWO, 1)}


async def test_a_settle_of_one_is_not_taken_for_the_others(jobs, twins):
    """This matters after the answer of a settle was lost."""
    plain, two = twins
    async with jobs.database.kernel() as conn:
        of_plain = await find_settled(conn, type(plain), [jobs.outcome(plain, Complete())], changed_by="test")
        of_two = await find_settled(conn, type(two), [jobs.outcome(two, Complete(), TWO)], changed_by="test")

    assert (of_plain, of_two) == ({plain.id}, set())


async def test_a_retry_goes_by_the_jobs_own_end(jobs, twins):
    """It does not use the last transition with the id."""
    _, two = twins
    async with jobs.database.kernel() as conn:
        assert await retry(conn, type(two), [two.id], reason="mended") == {two.id}

    assert (await jobs.row(two.id, TWO))["status"] == "pending"
