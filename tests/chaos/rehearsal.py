"""A small run in one process on real Postgres, with its evidence, for the tests of the checker."""

import asyncio
import math
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from gristmill_testing.waiting import MAX_WAIT_SECONDS, WAIT_POLL_SECONDS, until
from tests.chaos.checker import CheckReport, check
from tests.chaos.evidence import Evidence, LostRun
from tests.conftest import sqlalchemy_url
from tests.support.fakes.road import FakeRoad
from tests.support.fakes.wire import Wire, wire_to
from tests.support.kernel import PLAIN, Jobs, WorkerProcess, dispatching, started_worker
from tests.support.proving.models import LIMIT, KeyedJob, PlainJob
from tests.support.proving.stages import Act, perform
from workers.runtime.beat import firing
from workers.runtime.database import Database
from workers.runtime.handler.context import Context, Run
from workers.runtime.handler.limits import Limit
from workers.runtime.handler.outcomes import Outcome
from workers.runtime.handler.registry import Registry, stage
from workers.runtime.store import intervene, rescue
from workers.runtime.store.processes import WorkerRow, beat_heart

EVERY_MINUTE = "* * * * *"
LEASE_SECONDS = 0.4
KEYED = "proving.keyed"
FIRST_RUN = 2
# Within a transaction, Postgres repeats the same statistics until they are cleared.
SOMEBODY_WAITS = """
SELECT pg_stat_clear_snapshot(), EXISTS (
  SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')"""


class Gates:
    """Two gates that runs wait for: one for the first run of a job, one for later runs."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.later = asyncio.Event()

    def close(self) -> None:
        """Close both gates again."""
        self.first.clear()
        self.later.clear()

    def registry(self) -> Registry:
        """Return the plain and the keyed stage, with handlers that wait at the gates before they act."""
        registry = Registry()

        async def behind_gates(job: Any, ctx: Context) -> Outcome:
            await (self.first if ctx.run.version == FIRST_RUN else self.later).wait()
            return await perform(job, ctx)

        stage(PLAIN, of=PlainJob, payload=Act, into=registry)(behind_gates)
        stage(KEYED, of=KeyedJob, payload=Act, limit=Limit("key", at_most=LIMIT), into=registry)(behind_gates)
        return registry


class Rehearsal:
    """Workers, a dispatcher, beats and people on one database, and the evidence of their answers."""

    def __init__(self, url: str, registry: Registry, database: Database, stack: AsyncExitStack) -> None:
        self.url = url
        self.registry = registry
        self.database = database
        self.jobs = Jobs(database, registry)
        self.evidence = Evidence()
        self.workers: list[WorkerProcess] = []
        self.mill_lost_runs: list[tuple[str, Run]] = []
        self.guarded = True
        self._stack = stack

    async def enqueue(self, stage: str = PLAIN, count: int = 1, **job: Any) -> list[UUID]:
        """Enqueue, and record the answers."""
        ids = await self.jobs.ready(stage, count, **job)
        self.evidence.committed |= dict.fromkeys(ids, stage)
        return ids

    async def worker(self, *, url: str | None = None, **options: Any) -> WorkerProcess:
        """Start a worker, which uses ``url`` for the database if given; it stops with the rehearsal."""
        worker = await self._stack.enter_async_context(started_worker(url or self.url, self.registry, **options))
        self.workers.append(worker)
        return worker

    async def wire(self) -> tuple[str, Wire]:
        """Start a proxy to the database that may drop answers; return its URL and the proxy."""
        return await self._stack.enter_async_context(wire_to(self.url))

    async def deliver(self, worker: WorkerProcess, stage: str = PLAIN) -> None:
        """Dispatch the due jobs to ``worker``; return when they are claimed."""
        await worker.accept(await self.jobs.dispatched(stage, 0), stage)

    async def freeze(self, worker: WorkerProcess) -> None:
        """Stop the heartbeat and the fence listener of a worker, as SIGSTOP does; its runs wait at the gate."""
        tasks = [worker.kernel.parts[name] for name in ("heartbeat", "fences")]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def dispatcher(self, worker: WorkerProcess) -> None:
        """Start a dispatcher that sends every batch to ``worker``."""

        async def deliver(stage: str, tickets: Any) -> None:
            await worker.accept(tickets, stage)

        road = FakeRoad(deliver)
        await self._stack.enter_async_context(dispatching(self.url, self.registry, road))

    async def cancel(self, *ids: UUID, stage: str = PLAIN) -> None:
        """Cancel as a person does, and record the time of the answer."""
        async with self.guard(stage), self.database.kernel() as conn:
            done = await intervene.cancel(conn, self.registry[stage].model, ids, reason="no longer wanted")
        self.evidence.cancelled |= dict.fromkeys(done, time.time())

    async def retry(self, *ids: UUID, stage: str = PLAIN) -> None:
        """Send failed jobs back as a person does."""
        async with self.database.kernel() as conn:
            await intervene.retry(conn, self.registry[stage].model, ids, reason="once more")

    async def rescue(self, stage: str = PLAIN, *, led_for: timedelta = timedelta(minutes=1)) -> int:
        """Let the leader rescue once; return the number of rescued jobs."""
        database = Database(self.url, changed_by="dispatcher:one", pool_size=1)
        try:
            async with self.guard(stage), database.kernel() as conn:
                return await rescue.rescue_expired(conn, self.registry[stage], led_for=led_for)
        finally:
            await database.close()

    @asynccontextmanager
    async def guard(self, stage: str) -> AsyncIterator[None]:
        """Disable the guard of the stage's table during the block, if ``guarded`` is false."""
        alter = f"ALTER TABLE {self.registry[stage].model.__table__} {{}} TRIGGER guard_update"
        if self.guarded:
            yield
            return
        await self.jobs.sql(alter.format("DISABLE"))
        yield
        await self.jobs.sql(alter.format("ENABLE"))

    async def claim_and_vanish(self, stage: str = PLAIN) -> None:
        """Claim every dispatched job as a worker that then sends no more heartbeats."""
        worker = WorkerRow(id=uuid.uuid4(), name="doomed", queues=("proving",), slots=1, lease_seconds=LEASE_SECONDS)
        database = Database(self.url, changed_by=f"worker:{worker.id}", pool_size=1)
        try:
            async with database.kernel() as conn:
                await beat_heart(conn, worker, running=0)
            tickets = await self.jobs.dispatched(stage, 0)
            await Jobs(database, self.registry).claim(tickets, stage, owner=worker.id)
        finally:
            await database.close()

    async def prune(self, *ids: UUID, age: timedelta = timedelta(days=2), stage: str = PLAIN) -> int:
        """Make these ended jobs old, then prune their table."""
        model = self.registry[stage].model
        if ids:
            aged = f"UPDATE {model.__table__} SET completed_at = completed_at - %s WHERE id = ANY (%s)"
            await self.jobs.unguarded(aged, age, list(ids))
            self.evidence.aged |= set(ids)
        async with self.database.kernel() as conn:
            return await rescue.prune(conn, model)

    async def schedule(self, catch_up: str = "all", *, cron: str = EVERY_MINUTE, minutes_ago: int = 3) -> None:
        """Add a schedule of plain jobs that has missed some minutes. Its name is its catch-up policy."""
        await self.jobs.sql(
            "INSERT INTO runtime.schedules (name, stage, cron, catch_up, created_at) VALUES (%s, %s, %s, %s, "
            "now() - make_interval(mins => %s))",
            catch_up,
            PLAIN,
            cron,
            catch_up,
            minutes_ago,
        )

    async def beats(self) -> None:
        """Let two beats look at the schedules at the same moment, so that both see the same due ticks."""
        await asyncio.to_thread(self._race_of_beats)

    def _race_of_beats(self) -> None:
        with self._beat("one") as one:
            rival = threading.Thread(target=self._fire_second)
            rival.start()
            deadline = time.monotonic() + MAX_WAIT_SECONDS
            while rival.is_alive() and not one.execute(text(SOMEBODY_WAITS)).one()[1]:
                assert time.monotonic() < deadline, "the second beat neither waits nor ends"
                time.sleep(WAIT_POLL_SECONDS)
        rival.join(MAX_WAIT_SECONDS)

    def _fire_second(self) -> None:
        with self._beat("two"):
            pass

    @contextmanager
    def _beat(self, name: str) -> Iterator[Session]:
        """Fire the due ticks as the beat ``name``; commit when the block ends."""
        options = f"-c gristmill.changed_by=beat:{name}"
        engine = create_engine(sqlalchemy_url(self.url), poolclass=NullPool, connect_args={"options": options})
        with Session(engine) as session, session.begin():
            firing.fire_due(session, fired_by=name)
            yield session
        engine.dispose()

    async def settled(self, *, stage: str = PLAIN, within: float = 10.0) -> None:
        """Wait until no job of the stage's table can move any more; end snoozes and back-offs at once."""
        table = self.registry[stage].model.__table__
        again = "change_action IN ('retry', 'snooze')"
        hurry = f"UPDATE {table} SET due_at = NULL WHERE due_at IS NOT NULL AND {again}"
        live = f"SELECT 1 FROM {table} WHERE completed_at IS NULL AND (due_at IS NULL OR {again}) LIMIT 1"

        async def quiet() -> bool:
            await self.jobs.sql(hurry)
            return not await self.jobs.sql(live)

        await until(quiet, within=within)

    def record_lost_runs(self) -> None:
        """Record the stale writes that the workers rejected and the runs that they stopped; all workers still live."""
        lost = [("a mill", *one) for one in self.mill_lost_runs]
        lost += [(str(worker.id), *one) for worker in self.workers for one in worker.events.lost]
        self.evidence.lost_runs = [
            LostRun(how=how, job_id=run.job_id, fence=run.version, said_by=by) for by, how, run in lost
        ]
        self.evidence.spoke_until = dict.fromkeys((worker.id for worker in self.workers), math.inf)

    async def judge(self, **options: Any) -> CheckReport:
        """Check the history of the rehearsal."""
        self.record_lost_runs()
        async with self.database.kernel() as conn:
            return await check(conn, self.evidence, **{"lease": timedelta(seconds=LEASE_SECONDS), **options})


@asynccontextmanager
async def rehearsing(url: str, registry: Registry) -> AsyncIterator[Rehearsal]:
    """Open a rehearsal on the empty database of ``url``; everything that it started stops at the end of the block."""
    database = Database(url, changed_by="somebody")
    try:
        async with AsyncExitStack() as stack:
            yield Rehearsal(url, registry, database, stack)
    finally:
        await database.close()
