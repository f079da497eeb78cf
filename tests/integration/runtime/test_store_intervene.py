"""What operators do: cancel and retry jobs, pause and resume stages."""

import pytest

from tests.support.kernel import PLAIN
from workers.runtime.handler.outcomes import Complete, Fail, Retry
from workers.runtime.store.intervene import cancel, pause, resume, retry
from workers.runtime.store.settle import settle


async def cancelled(jobs, *ids, reason="no more"):
    async with jobs.database.kernel() as conn:
        return await cancel(conn, jobs.registry[PLAIN].model, ids, reason=reason)


async def retried(jobs, *ids, stage=PLAIN, reason="mended"):
    async with jobs.database.kernel() as conn:
        return await retry(conn, jobs.registry[stage].model, ids, reason=reason)


async def failed(jobs, *, spent: int = 0):
    """Return a job that failed with ``spent`` attempts used."""
    [job] = await jobs.running()
    for _ in range(spent):
        await jobs.settle(job, Retry("boom"))
        await jobs.sql("UPDATE proving.plain_jobs SET due_at = NULL")
        [job] = await jobs.running(count=0)
    await jobs.settle(job, Fail("bad"))
    return job


async def test_a_ready_job_is_cancelled_at_once(jobs):
    """It does not run; the history has the reason, the row has the time."""
    [(job_id, version)] = await jobs.dispatched()

    assert await cancelled(jobs, job_id) == {job_id}

    row = await jobs.row(job_id)
    assert (row["status"], row["version"], row["dispatched_at"], row["due_at"]) == ("cancelled", 2, None, None)
    assert row["completed_at"] is not None
    past = (await jobs.history(job_id))[-1]
    assert (past.change_action, past.change_reason, past.changed_by) == ("cancel", "no more", "test")
    assert await jobs.claim([(job_id, version)]) == []


async def test_a_running_job_is_fenced_off_by_its_cancel(jobs):
    """After the acknowledgement, its run cannot settle."""
    [job] = await jobs.running()

    assert await cancelled(jobs, job.id) == {job.id}

    assert not await jobs.settle(job, Complete())
    assert (await jobs.row(job.id))["status"] == "cancelled"


@pytest.mark.parametrize("outcome", [Complete(), Fail("bad")])
async def test_an_ended_job_stays_as_it_ended(jobs, outcome):
    """To cancel an ended job is no error and changes nothing."""
    [job] = await jobs.running()
    await jobs.settle(job, outcome)
    before = await jobs.row(job.id)

    assert await cancelled(jobs, job.id) == set()
    assert await jobs.row(job.id) == before


async def test_a_cancelled_job_is_cancelled_once(jobs, plain):
    """If two people cancel a job, only one of them did it."""
    [job_id] = await jobs.ready()

    first, second = await jobs.race(
        lambda conn: cancel(conn, plain.model, [job_id], reason="one"),
        lambda conn: cancel(conn, plain.model, [job_id], reason="other"),
    )

    assert (first, second) == ({job_id}, set())
    assert (await jobs.history(job_id))[-1].change_reason == "one"


async def test_a_cancel_that_comes_after_a_settle_finds_nothing_to_do(jobs, plain):
    """It waits for the commit of the settle and then finds that the job has ended."""
    [job] = await jobs.running()

    settled, cancelled_ = await jobs.race(
        lambda conn: settle(conn, plain.model, [jobs.outcome(job, Complete())]),
        lambda conn: cancel(conn, plain.model, [job.id], reason="too late"),
    )

    assert (settled, cancelled_) == ({job.id}, set())


async def test_many_are_cancelled_in_one_statement(jobs):
    """Ready and running jobs are cancelled together; ended ones are skipped."""
    [running] = await jobs.running()
    [done] = await jobs.running()
    await jobs.settle(done, Complete())
    ready = await jobs.ready(count=3)

    assert await cancelled(jobs, running.id, done.id, *ready) == {running.id, *ready}


async def test_a_failed_job_is_sent_back_with_one_attempt_spent(jobs):
    """It starts again like a new job, but keeps its last error."""
    job = await failed(jobs, spent=1)

    assert await retried(jobs, job.id) == {job.id}

    row = await jobs.row(job.id)
    assert (row["status"], row["retry_count"], row["error_message"]) == ("pending", 2, "bad")
    assert (row["completed_at"], row["started_at"], row["lease_owner"], row["due_at"]) == (None, None, None, None)
    assert (await jobs.history(job.id))[-1].change_reason == "mended"
    assert len(await jobs.dispatched(count=0)) == 1


async def test_a_job_without_attempts_is_granted_one(jobs):
    """After the cause is repaired, it runs exactly once more; its history says why it may."""
    job = await failed(jobs, spent=5)

    assert await retried(jobs, job.id) == {job.id}

    row = await jobs.row(job.id)
    assert (row["status"], row["retry_count"], row["max_retries"]) == ("pending", 6, 6)
    assert (await jobs.history(job.id))[-1].change_reason == "mended (one attempt granted beyond 6)"
    [again] = await jobs.running(count=0)
    await jobs.settle(again, Retry("boom"))
    assert (await jobs.row(job.id))["status"] == "failed"


async def test_a_table_that_bounds_its_attempts_keeps_its_bound(jobs):
    """Jobs that reached the bound stay failed; the others go back to ready."""
    [profile] = await jobs.sql("INSERT INTO scoring.profiles (name) VALUES ('Ada') RETURNING id")
    scoring = await jobs.running("scoring.score", 3, profile_id=profile["id"], prompt="Judge.")
    for job in scoring:
        await jobs.settle(job, Fail("bad"), "scoring.score")
    spent, fresh, less = (job.id for job in scoring)
    await jobs.unguarded("UPDATE scoring.scoring_jobs SET retry_count = 5 WHERE id = %s", spent)
    await jobs.sql("UPDATE scoring.scoring_jobs SET max_retries = 0 WHERE id = %s", less)

    assert await retried(jobs, spent, fresh, less, stage="scoring.score") == {fresh, less}

    row = await jobs.row(spent, "scoring.score")
    assert (row["status"], row["retry_count"], row["max_retries"]) == ("failed", 5, 5)
    assert (await jobs.row(less, "scoring.score"))["max_retries"] == 1


@pytest.mark.parametrize("state", ["ready", "running", "completed", "cancelled"])
async def test_only_a_failed_job_is_retried(jobs, state):
    """A retry in another state would run a job twice or undo its result."""
    if state == "ready":
        [job_id] = await jobs.ready()
    else:
        [job] = await jobs.running()
        job_id = job.id
        if state == "completed":
            await jobs.settle(job, Complete())
        if state == "cancelled":
            await cancelled(jobs, job_id)

    assert await retried(jobs, job_id) == set()


async def test_two_retries_spend_one_attempt(jobs, plain):
    """The second one waits and then finds that the job is ready."""
    job = await failed(jobs)

    first, second = await jobs.race(
        lambda conn: retry(conn, plain.model, [job.id], reason="one"),
        lambda conn: retry(conn, plain.model, [job.id], reason="other"),
    )

    assert (first, second) == ({job.id}, set())
    assert (await jobs.row(job.id))["retry_count"] == 1


async def test_a_job_that_failed_in_its_second_step_goes_on_there(jobs):
    """Its first step is not repeated."""
    [job] = await jobs.running("proving.first")
    await jobs.settle(job, Complete(), "proving.first")
    [job] = await jobs.running("proving.second", 0)
    await jobs.settle(job, Fail("bad"), "proving.second")

    assert await retried(jobs, job.id, stage="proving.second") == {job.id}

    assert (await jobs.row(job.id, "proving.second"))["status"] == "halfway"


async def test_a_job_that_failed_in_its_first_step_starts_there(jobs):
    """Each job goes back to the step in which it failed."""
    [job] = await jobs.running("proving.first")
    await jobs.settle(job, Fail("bad"), "proving.first")

    await retried(jobs, job.id, stage="proving.first")

    assert (await jobs.row(job.id, "proving.first"))["status"] == "pending"


async def test_a_pause_is_kept_with_who_and_when_and_ends_with_resume(jobs):
    """A second pause does not replace the name of the first."""
    async with jobs.database.kernel() as conn:
        assert await pause(conn, PLAIN, by="alice")
        assert await pause(conn, PLAIN, by="bob")
        [paused] = await jobs.sql("SELECT paused_at, paused_by FROM runtime.stages WHERE name = %s", PLAIN)
        assert await resume(conn, PLAIN)
        [resumed] = await jobs.sql("SELECT paused_at, paused_by FROM runtime.stages WHERE name = %s", PLAIN)

    assert (paused["paused_at"] is not None, paused["paused_by"]) == (True, "alice")
    assert resumed == {"paused_at": None, "paused_by": None}


async def test_an_unknown_stage_is_neither_paused_nor_resumed(jobs):
    """The caller learns it, so that a typing error does not look like a pause."""
    async with jobs.database.kernel() as conn:
        assert not await pause(conn, "proving.typo", by="alice")
        assert not await resume(conn, "proving.typo")
