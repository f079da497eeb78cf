"""The running half of a worker process: take batches, claim into free slots, run each job, settle, drain.

Lives on one asyncio loop. The transport hands it batches and tells it to drain; it knows no Celery.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol
from uuid import UUID

import structlog
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from models.lifecycle import Job
from workers.runtime.backoff import full_jitter
from workers.runtime.context import Context, Run
from workers.runtime.database import Database, is_database_away
from workers.runtime.decisions import Settled, decide
from workers.runtime.errors import describe, outcome_of
from workers.runtime.outcomes import Cancel, Complete, Fail, Release, Retry, Settlement, Snooze
from workers.runtime.ports import LanguageModel
from workers.runtime.registry import Registry, Stage
from workers.runtime.settler import Settler
from workers.runtime.store.claim import Ticket, claim, claimed_before, set_progress
from workers.runtime.store.dispatch import unmark_exactly
from workers.runtime.watch import Watch

log = structlog.get_logger(__name__)

DRAINING = "worker is draining"
CLAIM_ATTEMPTS = 4
CROWDED_DELAY = timedelta(seconds=2)
SLOT_PATIENCE_SECONDS = 2.0
GATHER_SECONDS = 0.004


class JobEvents(Protocol):
    """Who is told what becomes of each job, for Flower and metrics; must neither block nor raise."""

    def started(self, stage: Stage, job: Job) -> None: ...

    def settled(self, stage: Stage, job: Job, row: Settled, *, seconds: float) -> None: ...

    def stopped(self, stage: Stage, job: Job) -> None: ...

    def stale(self, stage: Stage, job: Job) -> None: ...


@dataclass(slots=True)
class Running:
    """One job on the loop. ``stop`` says why it is to end; once ``settling``, nothing stops it.

    A task is cancelled only once it is ``entered``: asyncio drops one that has not begun without running any of it.
    """

    stage: Stage
    job: Job
    task: asyncio.Task[None] | None = None
    stop: Literal["fence", "drain"] | None = None
    entered: bool = False
    settling: bool = False
    started: float = field(default_factory=time.monotonic)


class Runner:
    """Up to ``slots`` jobs at once in this process, each under its fence, deadline and lease."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        *,
        worker_id: UUID,
        slots: int,
        llm: LanguageModel,
        events: JobEvents,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.worker_id = worker_id
        self.slots = slots
        self.running: dict[UUID, Running] = {}
        self.clock_offset = timedelta()
        self._database = database
        self._registry = registry
        self._llm = llm
        self._events = events
        self._draw = draw
        self._settler = Settler(database)
        self._free = slots
        self._freed = asyncio.Event()
        self._turn = asyncio.Lock()
        self._draining = False
        self._background: list[asyncio.Task[None]] = []

    @property
    def draining(self) -> bool:
        return self._draining

    async def start(self, watch: Watch) -> None:
        """Show signs of life, then be ready for batches."""
        await watch.first_heartbeat(self)
        self._background = [
            asyncio.create_task(self._settler.run(), name="settler"),
            asyncio.create_task(watch.keep_lease(self), name="heartbeat"),
            asyncio.create_task(watch.heed_fences(self), name="fences"),
        ]

    async def accept(self, stage_name: str, tickets: Sequence[Ticket]) -> None:
        """Claim this batch into slots as they come free; return once all of it is claimed, stale or handed back.

        Slots are reserved before the claim and under one lock, so that two batches cannot starve each other. A full
        worker hands tickets back after a short wait: another may be free, and the carrier is needed elsewhere.
        """
        stage = self._registry[stage_name]
        rest = list(tickets)
        while rest:
            reserved = await self._reserve(len(rest))
            if not reserved:
                await self._hand_back(stage, rest)
                return
            part, rest = rest[:reserved], rest[reserved:]
            jobs: list[Job] = []
            try:
                jobs = await self._claim(stage, part)
            finally:
                self._give_back(reserved - len(jobs))
            for job in jobs:
                self._launch(stage, job)

    async def _reserve(self, wanted: int) -> int:
        """Take up to ``wanted`` slots, waiting a little for the first; none when draining or when none came free.

        Slots that had to be waited for come free in bursts: a moment's patience claims them together.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(SLOT_PATIENCE_SECONDS), self._turn:
                while not self._free and not self._draining:
                    self._freed.clear()
                    await self._freed.wait()
                    await asyncio.sleep(GATHER_SECONDS)
        reserved = 0 if self._draining else min(self._free, wanted)
        self._free -= reserved
        return reserved

    def _give_back(self, slots: int) -> None:
        self._free += slots
        self._freed.set()

    async def _claim(self, stage: Stage, tickets: Sequence[Ticket]) -> list[Job]:
        """Claim, waiting as long as Postgres is away; only a draining worker gives up after a few attempts.

        A claim whose answer was lost with the connection may have been committed: its jobs are ours to run.
        """
        attempt = 0
        while not (self._draining and attempt >= CLAIM_ATTEMPTS):
            attempt += 1
            try:
                async with self._database.kernel() as conn:
                    ours = await claimed_before(conn, stage, tickets, owner=self.worker_id) if attempt > 1 else []
                    fresh = await claim(conn, stage, tickets, owner=self.worker_id)
                    return [job for job in ours if job.id not in self.running] + fresh
            except Exception as error:
                if not is_database_away(error):
                    raise
                log.warning("claim_waits_for_database", stage=stage.name, attempt=attempt, error=describe(error))
                await asyncio.sleep(full_jitter(min(attempt, 3), draw=self._draw).total_seconds())
        return []

    async def _hand_back(self, stage: Stage, tickets: Sequence[Ticket]) -> None:
        with suppress(Exception):  # best effort: unclaimed tickets come due again by themselves
            async with self._database.kernel() as conn:
                await unmark_exactly(conn, stage.model, tickets)

    def _launch(self, stage: Stage, job: Job) -> None:
        # Claimed as the drain began: given back at once.
        running = Running(stage, job, stop="drain" if self._draining else None)
        self.running[job.id] = running
        self._events.started(stage, job)
        running.task = asyncio.create_task(self._perform(running), name=f"{stage.name} {job.id}")

    async def _perform(self, running: Running) -> None:
        """Run one job to its settlement; whatever happens, its slot comes back."""
        stage, job = running.stage, running.job
        structlog.contextvars.bind_contextvars(
            stage=stage.name, job_id=str(job.id), version=job.version, attempt=job.retry_count + 1
        )
        try:
            settlement = await self._settlement(running)
            if settlement is not None:
                running.settling = True
                await self._settle(running, settlement)
        except Exception:  # the loop's last line of defence: the lease expires and the job is rescued
            log.exception("run_lost")
        finally:
            if self.running.get(job.id) is running:  # and not a newer run of a job that was taken from this one
                del self.running[job.id]
            self._give_back(1)

    async def _settlement(self, running: Running) -> Settlement | None:
        """Return the handler's outcome, or what its exception means; None when the fence is gone."""
        stage, job = running.stage, running.job
        if running.stop == "drain":
            return Release(DRAINING)
        seconds = job.timeout_seconds or stage.timeout.total_seconds()
        deadline = asyncio.timeout(seconds)
        running.entered = True
        if running.stop:
            return self._stopped(running)
        try:
            async with deadline:
                outcome = await stage.handler(job, self._context(stage, job))
        except (Exception, SystemExit, asyncio.CancelledError) as error:  # noqa: BLE001 - each has a meaning for its job
            if running.stop:
                return self._stopped(running)
            if isinstance(error, asyncio.CancelledError):
                return Retry("handler was cancelled from within")
            if isinstance(error, TimeoutError) and deadline.expired():
                return Retry(f"deadline of {seconds:g} s passed")
            log.warning("handler_raised", error=describe(error))
            if isinstance(error, PoolTimeoutError):  # this process is too busy; the job has done nothing wrong
                return Snooze(CROWDED_DELAY, "no database connection came free")
            return outcome_of(error)
        return self._checked(stage, outcome)

    def _stopped(self, running: Running) -> Settlement | None:
        """Return what a run leaves that was told to end, however its handler took it."""
        if running.stop == "drain":
            return Release(DRAINING)
        log.info("run_stopped", reason="its job was moved on by someone else")
        self._events.stopped(running.stage, running.job)
        return None

    def _checked(self, stage: Stage, outcome: object) -> Settlement:
        """Return ``outcome`` if it is one; a handler that returns anything else is wrong every time."""
        match outcome:
            case Complete(values=values):
                foreign = values.keys() - stage.settable
                if foreign:
                    return Fail(f"handler of {stage.name!r} set {sorted(foreign)}, which are not its columns to set")
                return outcome
            case Snooze() | Fail() | Cancel():
                return outcome
            case _:
                return Fail(f"handler of {stage.name!r} must return an outcome, got {type(outcome).__name__!r}")

    def _context(self, stage: Stage, job: Job) -> Context:
        async def progress(percent: int) -> None:
            async with self._database.kernel() as conn:
                held = await set_progress(conn, stage.model, (job.id, job.version), min(max(percent, 1), 99))
            if not held:  # cancelled or taken: nothing that costs may follow
                self.stop_run(job.id, "fence", version=job.version)
                await asyncio.sleep(0)  # where the cancellation is raised

        return Context(
            run=Run(stage.name, job.id, job.version, job.retry_count + 1),
            llm=self._llm,
            session=self._database.session,
            progress=progress,
            clock=lambda: datetime.now(UTC) + self.clock_offset,
        )

    async def _settle(self, running: Running, settlement: Settlement) -> None:
        stage, job = running.stage, running.job
        row = decide(job, stage.step, stage.model.__lifecycle__, settlement, draw=self._draw)
        write = settlement.write if isinstance(settlement, Complete) else None
        try:
            accepted = await self._settler.settle(stage.model, row, write)
        except Exception as error:  # noqa: BLE001 - the row or its write is wrong: the job fails or is retried alone
            log.warning("outcome_refused", error=describe(error))
            meaning = outcome_of(error) if write else Fail(f"outcome refused: {describe(error)}")
            row = decide(job, stage.step, stage.model.__lifecycle__, meaning, draw=self._draw)
            accepted = await self._settler.settle(stage.model, row)
        if accepted:
            self._events.settled(stage, job, row, seconds=time.monotonic() - running.started)
        else:
            log.warning("stale_write_rejected")
            self._events.stale(stage, job)

    def stop_run(self, job_id: UUID, why: Literal["fence", "drain"], *, version: int | None = None) -> None:
        """Cancel the task of one job, of that run only if ``version`` is given; repeated calls cancel again."""
        running = self.running.get(job_id)
        if running and running.task and not running.settling and version in {None, running.job.version}:
            running.stop = running.stop or why
            if running.entered:
                running.task.cancel()

    def begin_drain(self) -> None:
        """Claim nothing more; batches that wait for slots are handed back."""
        self._draining = True
        self._freed.set()

    async def drain(self, *, grace: float, watch: Watch) -> None:
        """Let running jobs finish for ``grace`` seconds, then cancel and release the rest; return when all is settled.

        Ends within ``grace`` + 4 s, whatever handlers or Postgres do: what could not be settled waits for its lease.
        """
        self.begin_drain()
        await watch.announce_drain(self)
        if not await self._idle(within=grace):
            log.info("drain_releases_running_jobs", jobs=len(self.running))
            for job_id in list(self.running):
                self.stop_run(job_id, "drain")
            await self._idle(within=3.0)
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if self._free == self.slots:
            await watch.say_goodbye(self)

    async def _idle(self, *, within: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while self._free < self.slots:  # a slot reserved for a claim under way counts as taken
                    self._freed.clear()
                    await self._freed.wait()
        return self._free == self.slots
