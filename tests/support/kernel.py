"""Tools for the kernel's tests: jobs in any state, races of two connections, a small worker process."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from gristmill_testing.waiting import until
from models.lifecycle import Job
from tests.support.fakes.events import RecordedEvents
from tests.support.fakes.road import FakeRoad
from tests.support.proving.llm import NoModel
from workers.runtime.database import Database, Raw
from workers.runtime.dispatch.dispatcher import Dispatcher
from workers.runtime.enqueue import enqueue_many
from workers.runtime.handler.outcomes import Rows, Settlement, Write
from workers.runtime.handler.registry import Registry
from workers.runtime.handler.resources import Resources
from workers.runtime.store.claim import Ticket, claim
from workers.runtime.store.dispatch import Window, pick
from workers.runtime.store.processes import WorkerRow, beat_heart
from workers.runtime.store.read import TransitionView, history
from workers.runtime.store.settle import Settled, settle
from workers.runtime.store.tables import job_table
from workers.runtime.worker.lane import Item
from workers.runtime.worker.process import Worker
from workers.runtime.worker.settled_row import settled_row
from workers.runtime.worker.settler import Settler

T = TypeVar("T")
PLAIN = "proving.plain"
NO_OUTSIDE = Resources(llm=NoModel())
WIDE = Window(slots=10_000, at_most=10_000)


class Jobs:
    """Brings jobs of the proving tables into any state with the kernel's own statements."""

    def __init__(self, database: Database, registry: Registry) -> None:
        self.database = database
        self.registry = registry
        self.owner = uuid.uuid4()

    async def ready(self, stage: str = PLAIN, count: int = 1, **job: Any) -> list[UUID]:
        """Enqueue ``count`` equal jobs."""
        async with self.database.session() as session:
            enqueued = await enqueue_many(session, stage, [job] * count)
        return [one.id for one in enqueued]

    async def dispatched(self, stage: str = PLAIN, count: int = 1, **job: Any) -> list[Ticket]:
        """Enqueue and dispatch; return the tickets of all dispatched jobs."""
        if count:
            await self.ready(stage, count, **job)
        async with self.database.kernel() as conn:
            picked = await pick(conn, self.registry[stage], WIDE)
        return [(one.id, one.version) for one in picked.jobs]

    async def claim(self, tickets: Sequence[Ticket], stage: str = PLAIN, *, owner: UUID | None = None) -> list[Job]:
        async with self.database.kernel() as conn:
            return await claim(conn, self.registry[stage], tickets, owner=owner or self.owner)

    async def running(self, stage: str = PLAIN, count: int = 1, **job: Any) -> list[Job]:
        """Enqueue, dispatch and claim."""
        return await self.claim(await self.dispatched(stage, count, **job), stage)

    def outcome(self, job: Job, settlement: Settlement, stage: str = PLAIN, *, drawn: float = 0.5) -> Settled:
        """Return the row that ``settlement`` writes for ``job``."""
        step = self.registry[stage].step
        return settled_row(job, step, type(job).__lifecycle__, settlement, draw=lambda: drawn)

    async def settle(self, job: Job, settlement: Settlement, stage: str = PLAIN) -> bool:
        """Settle one run; return whether its fence held."""
        async with self.database.kernel() as conn:
            return bool(await settle(conn, type(job), [self.outcome(job, settlement, stage)]))

    async def row(self, job_id: UUID, stage: str = PLAIN) -> dict[str, Any]:
        """Return one job's row by the names of its attributes."""
        t = job_table(self.registry[stage].model)
        (found,) = await self.sql(f"SELECT * FROM {t.name} WHERE id = %s", job_id)
        return {t.attribute[column]: value for column, value in found.items()}

    async def count(self, stage: str = PLAIN, **wanted: Any) -> int:
        """Return how many rows have all of these values."""
        t = job_table(self.registry[stage].model)
        where = " AND ".join(f"{t.column[name]} = %s" for name in wanted) or "true"
        (found,) = await self.sql(f"SELECT count(*) AS n FROM {t.name} WHERE {where}", *wanted.values())
        return int(found["n"])

    async def history(self, job_id: UUID) -> list[TransitionView]:
        async with self.database.kernel() as conn:
            return await history(conn, job_id)

    async def actions(self, job_id: UUID) -> list[str | None]:
        """Return the actions on a job in order. Fails if its versions have gaps."""
        past = await self.history(job_id)
        assert [one.version_to for one in past] == list(range(1, len(past) + 1))
        return [one.change_action for one in past]

    async def sql(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """Run one statement on a kernel connection; return its rows."""
        async with self.database.kernel() as conn:
            cursor = await conn.cursor(row_factory=dict_row).execute(statement.encode(), values or None)
            return await cursor.fetchall() if cursor.description else []

    async def unguarded(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """Run one statement without the guards, to make rows that time or damage would make."""
        async with self.database.kernel() as conn, conn.transaction():
            await conn.execute("SET LOCAL session_replication_role = replica")
            cursor = await conn.cursor(row_factory=dict_row).execute(statement.encode(), values or None)
            return await cursor.fetchall() if cursor.description else []

    async def worker(self, *, slots: int = 100, lease_seconds: float = 60.0, worker_id: UUID | None = None) -> UUID:
        """Write the row of a live worker on the proving queue, so that the dispatcher has free slots."""
        row = WorkerRow(
            id=worker_id or uuid.uuid4(), name="w", queues=("proving",), slots=slots, lease_seconds=lease_seconds
        )
        async with self.database.kernel() as conn:
            await beat_heart(conn, row, running=0)
        return row.id

    async def race(self, first: Callable[[Raw], Awaitable[T]], second: Callable[[Raw], Awaitable[T]]) -> tuple[T, T]:
        """Run ``first`` in an open transaction, then ``second``; commit once ``second`` waits or is done."""
        async with self.database.kernel() as one, self.database.kernel() as two:
            async with one.transaction():
                won = await first(one)
                rival = asyncio.ensure_future(second(two))

                async def met() -> bool:
                    return rival.done() or await self._waits_for_lock(two)

                await until(met)
            return won, await rival

    async def _waits_for_lock(self, conn: Raw) -> bool:
        found = await self.sql(
            "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'", conn.info.backend_pid
        )
        return bool(found)


class WorkerProcess:
    """The kernel's part of a worker process, on the test's loop."""

    def __init__(
        self,
        url: str,
        registry: Registry,
        *,
        slots: int,
        lease_seconds: float = 3.0,
        resources: Resources = NO_OUTSIDE,
        queues: Sequence[str] = ("proving",),
        **options: Any,
    ) -> None:
        self.id = uuid.uuid4()
        self.events = RecordedEvents()
        self.database = Database(url, changed_by=f"worker:{self.id}")
        row = WorkerRow(id=self.id, name="w", queues=tuple(queues), slots=slots, lease_seconds=lease_seconds)
        self.kernel = Worker(
            self.database,
            registry,
            row,
            resources=resources,
            events=self.events,
            heartbeat_seconds=0.2,
            draw=lambda: 0.0,
            **options,
        )

    async def accept(self, tickets: Sequence[Ticket], stage: str = PLAIN) -> None:
        """Take one batch like the carrier task."""
        await self.kernel.accept(stage, tickets)

    async def accept_from_road(self, stage: str, tickets: Sequence[Ticket]) -> None:
        """Take one batch that a :class:`FakeRoad` delivers."""
        await self.kernel.accept(stage, tickets)

    async def idle(self, *, within: float = 10.0) -> None:
        """Return when no job runs."""
        await until(lambda: not self.kernel.runs, within=within)

    async def run(self, tickets: Sequence[Ticket], stage: str = PLAIN) -> None:
        """Take one batch and wait until its jobs have ended."""
        await self.accept(tickets, stage)
        await self.idle()

    async def stop(self, *, grace: float = 0.0) -> None:
        """Drain, then close every connection."""
        await self.kernel.drain(grace=grace)
        await self.database.close()


@asynccontextmanager
async def started_worker(
    url: str,
    registry: Registry,
    *,
    slots: int = 50,
    lease_seconds: float = 3.0,
    resources: Resources = NO_OUTSIDE,
    **options: Any,
) -> AsyncIterator[WorkerProcess]:
    """A worker process on the database of ``url``, stopped when the block ends. ``options`` are those of its kernel."""
    worker = WorkerProcess(url, registry, slots=slots, lease_seconds=lease_seconds, resources=resources, **options)
    await worker.kernel.start()
    try:
        yield worker
    finally:
        await worker.stop()


class AwaitedSettler(Settler):
    """A settler whose outcomes can be awaited."""

    async def settle(self, model: type[Job], row: Settled, *writes: Write | Rows) -> bool:
        """Submit one outcome; return whether its fence held, or raise its own error."""
        told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def done(answer: bool | Exception) -> None:  # noqa: FBT001 - whether the fence held
            if isinstance(answer, Exception):
                told.set_exception(answer)
            else:
                told.set_result(answer)

        self.submit(Item(model, row, writes, done))
        return await told


async def heard(listener: psycopg.AsyncConnection[Any]) -> list[tuple[str, str]]:
    """Return the notices since the last call. A notice arrives with the answer to the next statement."""
    await listener.execute("SELECT 1")
    return [(notice.channel, notice.payload) async for notice in listener.notifies(timeout=0)]


@asynccontextmanager
async def dispatching(
    url: str, registry: Registry, road: FakeRoad, name: str = "one", **options: Any
) -> AsyncIterator[Dispatcher]:
    """A running dispatcher, stopped when the block ends."""
    database = Database(url, changed_by=f"dispatcher:{name}", pool_size=1)
    dispatcher = Dispatcher(database, registry, road, name=name, **{"poll_seconds": 0.05, **options})
    task = asyncio.create_task(dispatcher.run())
    try:
        yield dispatcher
    finally:
        road.passable.set()
        dispatcher.stop()
        await asyncio.wait_for(task, 10)
        await database.close()


async def passes(road: FakeRoad, count: int = 3) -> None:
    """Return after the leader has checked its road ``count`` times more, and so dispatched at least as often."""
    seen = road.checks
    await until(lambda: road.checks >= seen + count)


async def leader(jobs: Jobs) -> str | None:
    """Return the name of the last leader, or None if there was none."""
    rows = await jobs.sql("SELECT leader FROM runtime.dispatcher")
    return rows[0]["leader"] if rows else None
