"""Claim: a worker that holds a ticket moves a job from ready to running, once."""

from datetime import timedelta

import pytest

from tests.support.kernel import PLAIN, Jobs
from tests.support.proving.models import PlainJob
from workers.runtime.database import Database
from workers.runtime.handler.outcomes import Complete
from workers.runtime.store.claim import claim, find_lost_fences, set_progress
from workers.runtime.store.intervene import cancel


async def test_a_claimed_job_runs_under_its_owner_and_a_new_version(jobs):
    """The claim returns the whole row; its version is the fence of the run."""
    [ticket] = await jobs.dispatched(key="k")

    [job] = await jobs.claim([ticket])

    row = await jobs.row(job.id)
    assert (job.id, job.version, job.key) == (ticket[0], ticket[1] + 1, "k")
    assert (row["status"], row["version"], row["lease_owner"]) == ("processing", 2, jobs.owner)
    assert row["started_at"] is not None
    assert row["progress"] == 1
    assert await jobs.actions(job.id) == ["enqueue", "claim"]


async def test_the_deadline_is_the_rows_own_or_else_the_stages(jobs, plain):
    """A row's ``timeout_seconds`` wins over what its handler declares."""
    [one, other] = await jobs.ready(count=2)
    await jobs.sql("UPDATE proving.plain_jobs SET timeout_seconds = 3 WHERE id = %s", one)

    await jobs.claim(await jobs.dispatched(count=0))

    own, stages = await jobs.row(one), await jobs.row(other)
    assert own["deadline_at"] - own["started_at"] == timedelta(seconds=3)
    assert stages["deadline_at"] - stages["started_at"] == plain.timeout


async def test_a_batch_is_claimed_in_one_statement_and_leaves_out_what_is_gone(jobs):
    """A cancelled job in the batch does not affect the other jobs."""
    tickets = await jobs.dispatched(count=5)
    async with jobs.database.kernel() as conn:
        await cancel(conn, jobs.registry[PLAIN].model, [tickets[2][0]], reason="no more")

    claimed = await jobs.claim(tickets)

    assert {job.id for job in claimed} == {id_ for id_, _ in tickets} - {tickets[2][0]}
    assert len({(await jobs.row(job.id))["started_at"] for job in claimed}) == 1


async def test_a_stale_ticket_claims_nothing(jobs):
    """If a job ran and came back, an old message holds a ticket of an old version."""
    [(job_id, version)] = await jobs.dispatched()
    await jobs.sql("UPDATE proving.plain_jobs SET version = version + 1 WHERE id = %s", job_id)

    assert await jobs.claim([(job_id, version)]) == []
    assert (await jobs.row(job_id))["status"] == "pending"


async def test_a_second_delivery_claims_nothing(jobs):
    """A message may come twice; the job runs once."""
    tickets = await jobs.dispatched(count=3)
    await jobs.claim(tickets)

    assert await jobs.claim(tickets) == []


@pytest.mark.parametrize("status", ["processing", "completed", "failed", "cancelled"])
async def test_only_a_ready_job_can_be_claimed(jobs, status):
    """A job in another state is not claimed, even if the ticket has its current version."""
    [job] = await jobs.running()
    if status != "processing":
        await jobs.sql("UPDATE proving.plain_jobs SET status = %s, version = 3, completed_at = now()", status)
    before = await jobs.row(job.id)

    assert await jobs.claim([(job.id, before["version"])]) == []
    assert await jobs.row(job.id) == before


async def test_a_job_without_its_mark_cannot_be_claimed(jobs):
    """Without a ticket (never given, or taken back) no job runs. So limits hold."""
    [job_id] = await jobs.ready()

    assert await jobs.claim([(job_id, 1)]) == []


async def test_two_workers_racing_for_one_ticket_run_it_once(jobs, plain):
    """The second worker waits for the first one's commit and then finds a newer version."""
    tickets = await jobs.dispatched(count=3)

    won, lost = await jobs.race(
        lambda conn: claim(conn, plain, tickets, owner=jobs.owner),
        lambda conn: claim(conn, plain, tickets, owner=jobs.owner),
    )

    assert len(won) == 3
    assert lost == []
    assert await jobs.actions(tickets[0][0]) == ["enqueue", "claim"]


async def test_the_second_worker_claims_when_the_first_rolls_back(jobs, plain):
    """If a worker dies during its claim, the next worker can use the ticket."""
    [ticket] = await jobs.dispatched()

    async with jobs.database.kernel() as conn:
        async with conn.transaction(force_rollback=True):
            assert await claim(conn, plain, [ticket], owner=jobs.owner)
        assert len(await claim(conn, plain, [ticket], owner=jobs.owner)) == 1


async def test_progress_is_kept_under_the_fence_only(jobs):
    """A run that lost its job changes nothing and learns it; progress is no transition."""
    [job] = await jobs.running()
    async with jobs.database.kernel() as conn:
        held = await set_progress(conn, type(job), (job.id, job.version), 40)
        stale = await set_progress(conn, type(job), (job.id, job.version - 1), 90)

    assert (held, stale) == (True, False)
    assert (await jobs.row(job.id))["progress"] == 40
    assert await jobs.actions(job.id) == ["enqueue", "claim"]


async def test_runs_whose_job_moved_on_or_vanished_have_lost_their_fence(jobs, plain):
    """Jobs that were cancelled or deleted are returned; jobs that are still held are not."""
    kept, cancelled, deleted = await jobs.running(count=3)
    await jobs.sql("DELETE FROM proving.plain_jobs WHERE id = %s", deleted.id)
    runs = [(job.id, job.version) for job in (kept, cancelled, deleted)]

    async with jobs.database.kernel() as conn:
        await cancel(conn, plain.model, [cancelled.id], reason="no more")
        assert await find_lost_fences(conn, plain.model, runs) == {cancelled.id, deleted.id}


async def test_the_second_step_is_claimed_by_its_own_stage_only(jobs):
    """A ticket of the first stage claims no job that is ready for the second."""
    [job] = await jobs.running("proving.first")
    await jobs.settle(job, Complete(), "proving.first")
    tickets = await jobs.dispatched("proving.second", count=0)

    assert await jobs.claim(tickets, "proving.first") == []
    assert [job.status for job in await jobs.claim(tickets, "proving.second")] == ["finishing"]


async def test_a_column_of_a_newer_release_is_left_out(fresh_database_url, registry):
    """A worker of this release goes on while the next one is rolled out."""
    database = Database(fresh_database_url, changed_by="test")
    jobs = Jobs(database, registry)
    await jobs.sql("ALTER TABLE proving.plain_jobs ADD COLUMN new_thing text DEFAULT 'x'")

    [job] = await jobs.running(key="k")

    assert isinstance(job, PlainJob)
    assert (job.key, job.version, hasattr(job, "new_thing")) == ("k", 2, False)
    await database.close()
