"""``runtime.jobs``: every job of every table, and why it waits."""

from datetime import timedelta

import pytest

from tests.support.kernel import PLAIN
from tests.support.proving.models import LIMIT
from workers.runtime.handler.outcomes import Complete, Fail, Retry, Snooze
from workers.runtime.store.intervene import pause, retry
from workers.runtime.store.processes import write_limits
from workers.runtime.store.read import JobFilter, get_job, list_jobs
from workers.runtime.store.rescue import rescue_expired
from workers.runtime.store.stages import list_stages

KEYED = "proving.keyed"


async def why(jobs, job_id) -> str | None:
    """Return why one job waits."""
    async with jobs.database.kernel() as conn:
        job = await get_job(conn, job_id)
    assert job is not None
    return job.wait_reason


async def test_a_ready_job_waits_for_the_dispatcher(jobs):
    """There are workers, no limit and no pause: the leader's next pass picks it."""
    await jobs.worker()
    [job_id] = await jobs.ready()

    assert await why(jobs, job_id) == "ready, waiting for the dispatcher"


async def test_a_job_of_later_says_so(jobs):
    """Its due time is another column of the row."""
    await jobs.worker()
    [job_id] = await jobs.ready(due_at="2999-01-01T00:00:00Z")

    assert await why(jobs, job_id) == "due later"


async def test_a_dispatched_job_waits_for_a_slot(jobs):
    """Its message is published."""
    [(job_id, _)] = await jobs.dispatched()

    assert await why(jobs, job_id) == "dispatched, waiting for a slot"


async def test_without_a_worker_the_queue_is_named(jobs):
    """The remedy is to start a worker for this queue."""
    [job_id] = await jobs.ready()

    assert await why(jobs, job_id) == "no worker for queue proving"


@pytest.mark.parametrize(
    ("settlement", "reason"),
    [
        (Retry("answered 503"), "backing off after: answered 503"),
        (Snooze(timedelta(hours=1), "quota"), "snoozed: quota"),
    ],
)
async def test_a_job_that_came_back_says_what_it_waits_for(jobs, settlement, reason):
    """The reason is an error, or a provider that asked to wait."""
    await jobs.worker()
    [job] = await jobs.running()
    await jobs.settle(job, settlement)

    assert await why(jobs, job.id) == reason


async def test_a_rescued_job_backs_off_and_says_after_what(jobs, plain):
    """After a second silent worker, the job may be the cause."""
    await jobs.worker()
    [job] = await jobs.running()
    for _ in range(2):
        async with jobs.database.kernel() as conn:
            await rescue_expired(conn, plain, led_for=timedelta(hours=1))
        await jobs.running(count=0)

    assert await why(jobs, job.id) == "backing off after: worker fell silent"


async def test_a_paused_stage_names_who_paused_it(jobs):
    """This reason comes before all other reasons."""
    [job_id] = await jobs.ready(due_at="2999-01-01T00:00:00Z")
    async with jobs.database.kernel() as conn:
        await pause(conn, PLAIN, by="alice")

    assert await why(jobs, job_id) == "paused by alice"


async def test_a_stage_paused_by_nobody_in_particular_is_paused_all_the_same(jobs, psql):
    """In psql a pause needs only one column; a waiting job still says why it waits."""
    [job_id] = await jobs.ready()
    psql.execute("UPDATE runtime.stages SET paused_at = now()")

    assert await why(jobs, job_id) == "paused"


async def test_a_job_behind_its_keys_limit_says_so(jobs):
    """The reason has the number of jobs in flight with this key; jobs of other keys do not count."""
    await jobs.worker()
    async with jobs.database.kernel() as conn:
        await write_limits(conn, jobs.registry.values())
    ids = await jobs.ready(KEYED, LIMIT + 1, key="k")
    await jobs.dispatched(KEYED, 0)
    [free] = await jobs.ready(KEYED, 1, key="other")

    assert await why(jobs, ids[-1]) == f"limit reached: key has {LIMIT} in flight"
    assert await why(jobs, free) == "ready, waiting for the dispatcher"


@pytest.mark.parametrize("settlement", [Complete(), Fail("bad")])
async def test_what_runs_or_has_ended_waits_for_nothing(jobs, settlement):
    """Only a waiting job has a reason."""
    [job] = await jobs.running()
    running = await why(jobs, job.id)
    await jobs.settle(job, settlement)

    assert (running, await why(jobs, job.id)) == (None, None)


async def test_a_job_between_its_steps_is_listed_under_the_next(jobs):
    """It waits for its second stage."""
    await jobs.worker()
    [job] = await jobs.running("proving.first")
    await jobs.settle(job, Complete(), "proving.first")

    async with jobs.database.kernel() as conn:
        seen = await get_job(conn, job.id)
    assert seen is not None
    assert (seen.stage, seen.status) == ("proving.second", "halfway")
    assert seen.wait_reason == "ready, waiting for the dispatcher"


async def test_jobs_of_every_table_are_listed_newest_first_and_page_by_page(jobs):
    """The last id of a page leads to the next page; filters combine."""
    oldest = await jobs.ready(PLAIN, 2)
    newest = await jobs.ready(KEYED, 2)

    async with jobs.database.kernel() as conn:
        page = await list_jobs(conn, JobFilter(), limit=3)
        rest = await list_jobs(conn, JobFilter(), limit=3, after=page[-1].id)
        keyed = await list_jobs(conn, JobFilter(stage=KEYED, status="pending", ids=[*newest, *oldest]), limit=9)

    assert [job.id for job in page + rest] == [*reversed(newest), *reversed(oldest)]
    assert {job.id for job in keyed} == set(newest)
    assert {job.table_name for job in keyed} == {"proving.keyed_jobs"}


async def test_jobs_are_found_by_their_error(jobs):
    """Any part of the error, in upper or lower case; a percent sign has no special meaning."""
    one, other = await jobs.running(count=2)
    await jobs.settle(one, Fail("100% Refused"))
    await jobs.settle(other, Fail("100 refused"))

    async with jobs.database.kernel() as conn:
        found = await list_jobs(conn, JobFilter(error="100% ref"), limit=9)
    assert [job.id for job in found] == [one.id]


async def test_a_stage_counts_what_waits_runs_and_failed(jobs):
    """A job that failed once and then completed is no failure."""
    await jobs.worker(slots=7)
    failed, cured, _ = await jobs.running(count=3)
    await jobs.settle(failed, Fail("bad"))
    await jobs.settle(cured, Complete())
    await jobs.ready(count=2)

    async with jobs.database.kernel() as conn:
        [stage] = [one for one in await list_stages(conn) if one.stage == PLAIN]
    assert (stage.ready, stage.running, stage.failed) == (2, 1, 1)
    assert (stage.slots, stage.done_last_minute) == (7, 1)


async def test_a_retried_job_is_listed_as_ready_with_its_last_error(jobs, plain):
    """The error stays readable while the job waits."""
    await jobs.worker()
    [job] = await jobs.running()
    await jobs.settle(job, Fail("bad"))
    async with jobs.database.kernel() as conn:
        await retry(conn, plain.model, [job.id], reason="mended")
        seen = await get_job(conn, job.id)

    assert seen is not None
    assert (seen.status, seen.error_message, seen.wait_reason) == (
        "pending",
        "bad",
        "ready, waiting for the dispatcher",
    )
