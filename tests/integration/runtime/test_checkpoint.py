"""Checkpoints of a long run: its columns and its rows are committed together, under its fence."""

import asyncio
from typing import Any

from sqlalchemy import text

from tests.support.kernel import started_worker
from tests.support.proving.models import PlainJob
from workers.runtime.handler.outcomes import Complete
from workers.runtime.store.intervene import cancel


def counted(job: Any) -> Any:
    async def write(session):
        sql = text("UPDATE proving.plain_jobs SET effects = effects + 1 WHERE id = :id RETURNING effects")
        effects = await session.scalar(sql, {"id": job.id})
        return {"result": {"effects": effects}}

    return write


async def test_values_and_rows_are_committed_together_while_the_run_goes_on(jobs, database_url, perform):
    """Another connection sees both before the run ends; the values that the write returns are set too."""
    seen: dict[str, Any] = {}

    @perform
    async def handler(job, ctx):
        await ctx.checkpoint({"progress": 30}, counted(job))
        seen.update(await jobs.row(job.id))
        await ctx.checkpoint({"progress": 60})
        return Complete()

    async with started_worker(database_url, perform.registry) as worker:
        [ticket] = await jobs.dispatched()
        await worker.run([ticket])

    assert (seen["progress"], seen["effects"], seen["result"]) == (30, 1, {"effects": 1})
    assert (seen["status"], seen["version"]) == ("processing", 2)
    assert await jobs.actions(ticket[0]) == ["enqueue", "claim", "complete"]


async def test_a_run_that_lost_its_fence_keeps_nothing_and_ends(jobs, database_url, perform):
    """If the job is cancelled between two checkpoints, the second one writes neither values nor rows."""
    after: list[str] = []

    @perform
    async def handler(job, ctx):
        await ctx.checkpoint({"progress": 30}, counted(job))
        async with jobs.database.kernel() as conn:
            assert await cancel(conn, PlainJob, [job.id], reason="test")
        await ctx.checkpoint({"progress": 60}, counted(job))  # at the latest: the notification may have come before
        after.append("went on")
        return Complete()

    async with started_worker(database_url, perform.registry) as worker:
        [ticket] = await jobs.dispatched()
        await worker.run([ticket])

    row = await jobs.row(ticket[0])
    assert (row["status"], row["effects"], row["progress"], after) == ("cancelled", 1, 30, [])


async def test_a_task_of_the_handlers_own_ends_with_its_run(jobs, database_url, perform):
    """Any task of a run that finds the fence lost ends, not only the first task."""
    after: list[str] = []

    @perform
    async def handler(job, ctx):
        async def part():
            await ctx.checkpoint({"progress": 60}, counted(job))
            after.append("went on")

        async with jobs.database.kernel() as conn:
            assert await cancel(conn, PlainJob, [job.id], reason="test")
        await asyncio.gather(asyncio.create_task(part()), return_exceptions=True)
        return Complete()

    async with started_worker(database_url, perform.registry) as worker:
        [ticket] = await jobs.dispatched()
        await worker.run([ticket])

    row = await jobs.row(ticket[0])
    assert (row["status"], row["effects"], after) == ("cancelled", 0, [])


async def test_a_write_that_fails_leaves_the_values_unset(jobs, database_url, perform):
    """Values and rows are both written, or neither."""

    @perform
    async def handler(job, ctx):
        async def bad(session):
            await session.execute(text("SELECT 1 / 0"))

        await ctx.checkpoint({"progress": 50}, bad)
        return Complete()

    async with started_worker(database_url, perform.registry) as worker:
        [ticket] = await jobs.dispatched()
        await worker.run([ticket])

    row = await jobs.row(ticket[0])
    assert (row["status"], row["retry_count"], row["progress"]) == ("pending", 1, 0)
    assert row["error_message"] == "DataError: division by zero"


async def test_only_the_handlers_own_columns_can_be_kept(jobs, database_url, perform):
    """The lifecycle's columns belong to the kernel."""

    @perform
    async def handler(job, ctx):
        await ctx.checkpoint({"status": "completed"})
        return Complete()

    async with started_worker(database_url, perform.registry) as worker:
        [ticket] = await jobs.dispatched()
        await worker.run([ticket])

    row = await jobs.row(ticket[0])
    assert row["status"] == "failed"
    assert row["error_message"] == "handler of 'proving.plain' kept ['status'], which it may not set"


async def test_a_job_deleted_under_its_run_ends_it(jobs, database_url, perform):
    """Deleting a project deletes its jobs: the run ends without an error and leaves no row."""
    entered, go = asyncio.Event(), asyncio.Event()

    @perform
    async def handler(job, ctx):
        entered.set()
        await go.wait()
        await ctx.checkpoint({"progress": 50}, counted(job))
        return Complete()

    async with started_worker(database_url, perform.registry) as worker:
        [ticket] = await jobs.dispatched()
        await worker.accept([ticket])
        await asyncio.wait_for(entered.wait(), 5)
        await jobs.sql("DELETE FROM proving.plain_jobs")
        go.set()
        await worker.idle()

    assert await jobs.count() == 0
