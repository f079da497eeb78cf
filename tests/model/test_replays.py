"""Counterexamples that the exploration found in earlier kernels, repeated on a real worker process."""

import asyncio
import math
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import psycopg
import pytest

from gristmill_testing.waiting import until
from tests.support.fakes.events import RecordedEvents
from tests.support.fakes.wire import wire_to
from tests.support.kernel import PLAIN, Jobs
from tests.support.proving.llm import NoModel
from tests.support.proving.models import PlainJob
from tests.support.proving.stages import Act
from workers.runtime.database import Database
from workers.runtime.handler.context import Context
from workers.runtime.handler.outcomes import Complete, Outcome
from workers.runtime.handler.registry import Registry, stage
from workers.runtime.handler.resources import Resources
from workers.runtime.store.claim import Ticket
from workers.runtime.store.processes import WorkerRow
from workers.runtime.store.rescue import rescue_expired
from workers.runtime.worker.process import Worker


class IsolatedWorker:
    """A worker process that does not learn what others do to its jobs, as if it was stopped for longer than its lease.

    It sends no heartbeat either, so all its jobs may be rescued. Its handlers never end by themselves.
    """

    def __init__(self, database: Database) -> None:
        self.id = uuid.uuid4()
        self.begun: list[int] = []
        self.ended: list[int] = []
        self._tasks: list[asyncio.Task[None]] = []
        registry = Registry()
        stage(PLAIN, of=PlainJob, payload=Act, into=registry)(self._perform)
        row = WorkerRow(id=self.id, name="deaf", queues=("proving",), slots=9, lease_seconds=60.0)
        self.kernel = Worker(
            database,
            registry,
            row,
            resources=Resources(llm=NoModel()),
            events=RecordedEvents(),
            heartbeat_seconds=1.0,
            draw=lambda: 0.0,
        )
        self.kernel.claims.renew(until=math.inf)  # the worker itself assumes that its lease holds

    async def _perform(self, job: PlainJob, _ctx: Context) -> Outcome:
        self.begun.append(job.version)
        task = asyncio.current_task()
        assert task
        self._tasks.append(task)
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.append(job.version)
        return Complete()

    async def accept(self, *tickets: Ticket) -> None:
        await self.kernel.accept(PLAIN, tickets)
        await asyncio.sleep(0)  # let the handlers begin

    async def stop(self) -> None:
        """End every run; nobody settles their jobs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def jobs(database, registry):
    """Jobs in any state, in the test's own database."""
    return Jobs(database, registry)


@asynccontextmanager
async def isolated_worker(url: str) -> AsyncIterator[IsolatedWorker]:
    database = Database(url, changed_by=f"worker:{uuid.uuid4()}")
    worker = IsolatedWorker(database)
    try:
        yield worker
    finally:
        await worker.stop()
        await database.close()


async def rescued_and_sent_again(jobs: Jobs) -> Ticket:
    """Rescue the one running job and dispatch it again."""
    async with jobs.database.kernel() as conn:
        assert await rescue_expired(conn, jobs.registry[PLAIN], led_for=timedelta(hours=1)) == 1
    [ticket] = await jobs.dispatched(count=0)
    return ticket


async def test_a_newer_run_of_a_job_ends_the_older_one_in_the_same_process(jobs, database_url):
    """Otherwise nobody would stop the older run: it could call its provider, even after its deadline, until it ends."""
    async with isolated_worker(database_url) as worker:
        await worker.accept(*await jobs.dispatched())

        await worker.accept(await rescued_and_sent_again(jobs))

        await until(lambda: worker.ended == [2])
        assert worker.begun == [2, 4]
        assert [run.run.version for run in worker.kernel.runs] == [4]


async def test_a_claim_without_an_answer_is_run_beside_an_older_run_of_its_job(jobs, database_url):
    """It is another run. If the worker ignored it, the job would wait until its deadline and spend an attempt."""
    async with wire_to(database_url) as (url, wire), isolated_worker(url) as worker:
        await worker.accept(*await jobs.dispatched())
        ticket = await rescued_and_sent_again(jobs)
        wire.lose_answer(b"'claim'")

        await worker.accept(ticket)

        assert wire.lost == 1
        assert worker.begun == [2, 4]


async def test_a_claim_that_took_too_long_does_not_replace_a_newer_run(jobs, database_url):
    """The job was rescued, claimed and started again while the answer was delayed: only the newer run continues."""
    async with wire_to(database_url) as (url, wire), isolated_worker(url) as worker:
        [early] = await jobs.dispatched()
        wire.lose_answer(b"'claim'")
        wire.keep_answer(b"SELECT j.* FROM")  # the query by which the worker asks what it claimed
        slow = asyncio.create_task(worker.accept(early))
        await until(lambda: wire.kept)

        await worker.accept(await rescued_and_sent_again(jobs))
        wire.let_go()
        await slow

        assert {run.run.version for run in worker.kernel.runs} == {4}
        assert worker.begun == [4]
        assert worker.ended == []
        assert worker.kernel.slots.free == worker.kernel.slots.count - 1


async def test_a_claim_without_an_answer_is_run_though_its_table_is_held_meanwhile(jobs, database_url):
    """The claim may be committed. Then no other worker would run the job before its deadline."""
    async with wire_to(database_url) as (url, wire), isolated_worker(url) as worker:
        [ticket] = await jobs.dispatched()
        wire.lose_answer(b"'claim'")
        claiming = asyncio.create_task(worker.accept(ticket))
        await until(lambda: wire.lost)
        with psycopg.connect(database_url) as holder:
            holder.execute("LOCK TABLE proving.plain_jobs IN ACCESS EXCLUSIVE MODE")
            await asyncio.sleep(2.5)  # two lock timeouts; a claim that is certainly not committed gives up after them

        await claiming

        assert worker.begun == [2]
