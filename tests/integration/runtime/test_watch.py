"""The fence listener and the heartbeat of a worker: runs with a lost fence end soon, all others go on."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from gristmill_testing.waiting import until
from tests.support.fakes.wire import wire_to
from tests.support.kernel import PLAIN, WorkerProcess, started_worker
from tests.support.proving.models import PlainJob
from workers.runtime.database import KERNEL_CONNECTIONS
from workers.runtime.handler.outcomes import Complete
from workers.runtime.store.intervene import cancel
from workers.runtime.store.rescue import rescue_expired


async def test_a_cancelled_job_stops_within_a_second(jobs, worker):
    """Another connection cancels the job: the run's task is cancelled and writes nothing."""
    [ticket] = await jobs.dispatched(seconds=60)
    await worker.accept([ticket])

    async with jobs.database.kernel() as conn:
        await cancel(conn, PlainJob, [ticket[0]], reason="no more")
    await worker.idle(within=1.0)

    assert worker.events.of(ticket[0]) == ["started", "stopped"]
    assert (await jobs.row(ticket[0]))["status"] == "cancelled"


async def test_a_job_without_a_row_stops_without_a_notification(jobs, worker):
    """The fence of every running job is checked each second."""
    [ticket] = await jobs.dispatched(seconds=60)
    await worker.accept([ticket])

    await jobs.sql("DELETE FROM proving.plain_jobs")

    await worker.idle(within=3.0)
    assert worker.events.of(ticket[0]) == ["started", "stopped"]


async def test_a_late_notice_of_an_earlier_run_stops_nothing(jobs, worker):
    """The job was rescued and runs here again: a notification about the earlier run does not stop it."""
    [ticket] = await jobs.dispatched(seconds=0.3)
    await worker.accept([ticket])

    await jobs.sql("SELECT pg_notify('gristmill_fence', %s)", f"{worker.id} {ticket[0]}")
    await worker.idle()

    assert worker.events.of(ticket[0]) == ["started", "complete"]


async def test_a_notice_that_makes_no_sense_harms_nobody(jobs, worker):
    """Anyone may send notifications; the listener goes on."""
    for payload in ("", "nonsense", f"{worker.id} nonsense"):
        await jobs.sql("SELECT pg_notify('gristmill_fence', %s)", payload)
    [ticket] = await jobs.dispatched(seconds=60)
    await worker.accept([ticket])

    async with jobs.database.kernel() as conn:
        await cancel(conn, PlainJob, [ticket[0]], reason="no more")
    await worker.idle(within=3.0)


@pytest.mark.parametrize(
    ("why", "status", "report"), [("drain", "pending", "release"), ("fence", "processing", "stopped")]
)
async def test_a_run_that_is_stopped_before_its_first_step_gives_its_slot_back(jobs, worker, why, status, report):
    """A run can be stopped between its claim and its start."""
    [ticket] = await jobs.dispatched()

    await worker.accept([ticket])
    worker.kernel.runs.stop(ticket[0], why)
    await worker.idle()

    assert worker.kernel.slots.free == worker.kernel.slots.count
    assert worker.events.of(ticket[0]) == ["started", report]
    assert (await jobs.row(ticket[0]))["status"] == status


async def test_a_worker_shows_itself_while_it_lives(jobs, worker):
    """Its row exists before the first claim and is renewed with the number of running jobs."""
    [first] = await jobs.sql("SELECT heartbeat_at, slots, queues FROM runtime.workers WHERE id = %s", worker.id)
    await worker.accept(await jobs.dispatched(count=2, seconds=60))

    later = "SELECT 1 FROM runtime.workers WHERE heartbeat_at > %s AND running = 2"
    await until(lambda: jobs.sql(later, first["heartbeat_at"]))

    assert (first["slots"], first["queues"]) == (50, ["proving"])


async def test_a_run_that_lingers_does_not_hide_the_newer_run_of_its_job(jobs, database_url, perform):
    """A handler does not end, its job is rescued and run again in the same process: the new run stays known."""
    let_go = asyncio.Event()

    @perform
    async def handler(job, ctx):
        if ctx.run.version > 2:
            await asyncio.sleep(60)
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue
        return Complete()

    async with started_worker(database_url, perform.registry) as worker:
        [ticket] = await jobs.dispatched()
        await worker.accept([ticket])
        await asyncio.sleep(0)
        await rescue_from(jobs, worker)
        await worker.accept(await jobs.dispatched(count=0))

        let_go.set()
        await until(lambda: worker.events.of(ticket[0])[-1] == "stale")

        assert [running.job.version for running in worker.kernel.runs] == [4]
        await worker.kernel.drain(grace=0.0)
    assert await jobs.actions(ticket[0]) == ["enqueue", "claim", "rescue", "claim", "release"]


async def rescue_from(jobs, worker: WorkerProcess) -> None:
    """Rescue the worker's job as if its deadline had passed long ago."""
    await jobs.sql("UPDATE proving.plain_jobs SET deadline_at = now() - interval '1 minute'")
    async with jobs.database.kernel() as conn:
        assert await rescue_expired(conn, jobs.registry[PLAIN], led_for=timedelta(hours=1)) == 1


async def test_heartbeats_go_on_although_every_connection_of_the_kernel_is_taken(jobs, worker):
    """Claims and outcomes that wait for locks must not cost a worker its lease."""
    async with AsyncExitStack() as taken:
        for _ in range(KERNEL_CONNECTIONS):
            await taken.enter_async_context(worker.database.kernel())

        first = await heartbeat(jobs, worker)
        await until(lambda: later(jobs, worker, first))


async def test_a_heartbeat_without_an_answer_opens_another_connection(jobs, database_url, registry):
    """Something in between still acknowledges the packets, so only the missing answer shows the loss."""
    async with wire_to(database_url) as (url, wire), started_worker(url, registry, lease_seconds=3.0) as worker:
        await until(lambda: heartbeat(jobs, worker))
        wire.fall_silent()

        first = await heartbeat(jobs, worker)
        await until(lambda: later(jobs, worker, first), within=10.0)


async def test_a_worker_whose_lease_ran_out_claims_nothing(jobs, database_url, registry):
    """Its jobs would be rescued at once, which costs an attempt: it gives the tickets back and claims later."""
    async with started_worker(database_url, registry, lease_seconds=0.5) as worker:
        heart = worker.kernel.parts["heartbeat"]
        heart.cancel()
        await asyncio.wait([heart])
        await asyncio.sleep(0.6)
        [ticket] = await jobs.dispatched()

        await worker.accept([ticket])

        assert await jobs.actions(ticket[0]) == ["enqueue"]
        assert (await jobs.row(ticket[0]))["dispatched_at"] is None
        assert worker.kernel.slots.free == worker.kernel.slots.count
        await worker.kernel.write_heartbeat()
        await worker.run(await jobs.dispatched(count=0))
        assert (await jobs.row(ticket[0]))["status"] == "completed"


async def heartbeat(jobs, worker):
    rows = await jobs.sql("SELECT heartbeat_at FROM runtime.workers WHERE id = %s", worker.id)
    return rows[0]["heartbeat_at"] if rows else None


async def later(jobs, worker, than):
    return await heartbeat(jobs, worker) > than


async def test_a_worker_whose_settler_failed_lets_its_lease_run_out(jobs, database_url, registry):
    """It could not settle its jobs: they are rescued, and it claims no more."""
    async with started_worker(database_url, registry, lease_seconds=1.0) as worker:
        [ticket] = await jobs.dispatched(seconds=60)
        await worker.accept([ticket])
        with capture_logs() as said:
            worker.kernel.settler._new.put_nowait(None)  # type: ignore[arg-type]  # no lane: an unexpected error
            await until(lambda: any(one["event"] == "worker_part_failed" for one in said))

        async def rescued() -> int:
            async with jobs.database.kernel() as conn:
                return await rescue_expired(conn, registry[PLAIN], led_for=timedelta(hours=1))

        await until(rescued)
        await worker.accept(await jobs.dispatched(count=2))
        assert await jobs.count(status="pending") == 3
