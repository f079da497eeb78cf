"""Draining a worker: it finishes the jobs that it can, releases the rest, and no job must wait for the lease."""

import asyncio
from contextlib import suppress

from gristmill_testing.waiting import until
from tests.support.kernel import started_worker
from workers.runtime.handler.outcomes import Complete


async def drained_in_its_midst(jobs, worker):
    """Return the ticket of a job that runs when its worker drains, for no longer than the worker's grace."""
    [ticket] = await jobs.dispatched()
    await worker.accept([ticket])
    await until(lambda: worker.kernel.runs)
    await worker.kernel.drain(grace=0.1)
    return ticket


async def test_a_drain_waits_for_what_runs_within_its_grace(jobs, start_worker):
    """A job that ends in time is not interrupted."""
    worker = await start_worker()
    [ticket] = await jobs.dispatched(seconds=0.3)
    await worker.accept([ticket])

    await worker.kernel.drain(grace=5.0)

    assert (await jobs.row(ticket[0]))["status"] == "completed"


async def test_a_drain_releases_what_is_not_done_in_time(jobs, start_worker):
    """The job is ready at once with no attempt spent; the worker's row is gone."""
    worker = await start_worker()
    tickets = await jobs.dispatched(count=5, seconds=60)
    await worker.accept(tickets)

    await worker.kernel.drain(grace=0.1)

    for job_id, _ in tickets:
        row = await jobs.row(job_id)
        assert (row["status"], row["retry_count"], row["due_at"], row["dispatched_at"]) == ("pending", 0, None, None)
        assert (await jobs.history(job_id))[-1].change_reason == "worker is draining"
    assert await jobs.sql("SELECT 1 FROM runtime.workers") == []


async def test_a_draining_worker_hands_back_what_it_has_not_claimed(jobs, start_worker):
    """This holds for batches that wait for a slot, and for batches that arrive during the drain."""
    worker = await start_worker(slots=1)
    [long] = await jobs.dispatched(seconds=60)
    await worker.accept([long])
    waiting = await jobs.dispatched(count=3)
    waits = asyncio.create_task(worker.accept(waiting))
    await asyncio.sleep(0)

    worker.kernel.begin_drain()
    async with asyncio.timeout(1):
        await waits
        await worker.accept(late := await jobs.dispatched(count=1))

    assert {ticket[0] for ticket in await jobs.dispatched(count=0)} == {id_ for id_, _ in waiting + late}


async def test_the_dispatcher_stops_counting_on_a_draining_worker(jobs, start_worker):
    """The worker's row says that it drains while its last jobs run."""
    worker = await start_worker()
    await worker.accept(await jobs.dispatched(seconds=0.5))

    drained = asyncio.create_task(worker.kernel.drain(grace=5.0))

    await until(lambda: jobs.sql("SELECT 1 FROM runtime.workers WHERE draining_at IS NOT NULL"))
    await drained


async def test_a_handler_that_turns_its_cancellation_into_an_error_is_released_all_the_same(
    jobs, database_url, perform
):
    """If a library wraps every exception, the released job still spends no attempt."""

    @perform
    async def handler(job, ctx):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise RuntimeError("connection closed") from None
        return Complete()

    async with started_worker(database_url, perform.registry) as worker:
        ticket = await drained_in_its_midst(jobs, worker)

    assert await jobs.actions(ticket[0]) == ["enqueue", "claim", "release"]
    assert (await jobs.row(ticket[0]))["retry_count"] == 0


async def test_a_handler_that_does_not_end_is_released_without_it(jobs, database_url, perform):
    """A wait that cannot be cancelled, and its result in the end, cost the job no attempt."""
    answered = asyncio.Event()
    ended = asyncio.Event()

    @perform
    async def handler(job, ctx):
        while not answered.is_set():
            with suppress(asyncio.CancelledError):
                await answered.wait()
        ended.set()
        return Complete()

    async with started_worker(database_url, perform.registry) as worker:
        ticket = await drained_in_its_midst(jobs, worker)
        answered.set()
        await ended.wait()

    assert await jobs.actions(ticket[0]) == ["enqueue", "claim", "release"]
    assert (await jobs.row(ticket[0]))["retry_count"] == 0
    assert worker.kernel.slots.free == worker.kernel.slots.count
    assert await jobs.sql("SELECT 1 FROM runtime.workers") == []


async def test_a_claim_under_way_as_the_drain_begins_is_given_back(jobs, start_worker):
    """The job is not run and does not wait for the lease."""
    worker = await start_worker()
    [ticket] = await jobs.dispatched(seconds=60)
    claiming = asyncio.create_task(worker.accept([ticket]))
    await asyncio.sleep(0)  # its slot is reserved, its claim has been sent

    await worker.kernel.drain(grace=5.0)
    await claiming

    row = await jobs.row(ticket[0])
    assert (row["status"], row["retry_count"], row["lease_owner"]) == ("pending", 0, None)
