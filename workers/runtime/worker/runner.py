"""The running half of a worker process: take batches, claim into free slots, run each job, settle, drain.

Lives on one asyncio loop. The transport hands it batches and tells it to drain; it knows no Celery.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn
from uuid import UUID

import structlog
from psycopg.errors import CheckViolation
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession

from models.lifecycle import Job
from workers.runtime.bounds import values_problem
from workers.runtime.database import Database, is_locked, is_unusable, outlasting
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.context import Context, Keep, Run, current_run
from workers.runtime.handler.endurance import (
    DATABASE_WAITS,
    PATIENCE,
    PROVIDER_WAITS,
    Waited,
    after_outage,
    without_database,
)
from workers.runtime.handler.errors import Permanent, Unavailable, describe, outcome_of
from workers.runtime.handler.outcomes import Cancel, Complete, Fail, Release, Retry, Settlement, Snooze
from workers.runtime.handler.ports import LanguageModel
from workers.runtime.handler.registry import Registry, Stage
from workers.runtime.store.checkpoint import checkpoint
from workers.runtime.store.claim import Ticket, set_progress
from workers.runtime.store.tables import unreadable
from workers.runtime.store.waits import waited
from workers.runtime.worker.claims import Claims
from workers.runtime.worker.decisions import decide
from workers.runtime.worker.lane import Item
from workers.runtime.worker.runs import JobEvents, Running, Stop
from workers.runtime.worker.settler import Settler
from workers.runtime.worker.slots import Slots
from workers.runtime.worker.watch import Watch

log = structlog.get_logger(__name__)

DRAINING = "worker is draining"
# Jobs in one claim: its answer is held in memory as a whole, and a payload may have a mebibyte.
CLAIMED_AT_ONCE = 256
# Progress must not take the connections of claims and outcomes.
SHOWN_AT_ONCE = 4
CROWDED_DELAY = timedelta(seconds=2)
# A deadline is met this late at most. One look at all runs costs less than a timer each.
DEADLINE_CHECK_SECONDS = 0.05
# A handler that outlives its deadline is told again this often.
REMINDER_SECONDS = 1.0
# A drain waits so long for handlers that were told to end, and then for Postgres to take what is left of them.
ENDING_SECONDS, RELEASING_SECONDS = 1.0, 2.0


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
        failed: Callable[[], None] = lambda: None,
        patience: timedelta = PATIENCE,
    ) -> None:
        """``failed`` is called once a part of it has failed: the process is of no more use, and ought to end.

        ``patience`` is how long a job waits for a provider that is away.
        """
        self.worker_id = worker_id
        self.slots = Slots(slots)
        self.running: dict[UUID, Running] = {}
        self.clock_offset = timedelta()
        self._showing = asyncio.Semaphore(SHOWN_AT_ONCE)
        self.claims = Claims(database, worker_id=worker_id, draw=draw)
        self._database = database
        self._registry = registry
        self._llm = llm
        self._events = events
        self._draw = draw
        self._settler = Settler(database)
        self._failed = failed
        self._patience = patience
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
            asyncio.create_task(self._keep_deadlines(), name="deadlines"),
            asyncio.create_task(watch.keep_lease(self), name="heartbeat"),
            asyncio.create_task(watch.heed_fences(self), name="fences"),
        ]
        for task in self._background:
            task.add_done_callback(self._heed_failure)

    def _heed_failure(self, ended: "asyncio.Task[None]") -> None:
        """Once a part of this process has failed, claim nothing and let the lease run out: its jobs are for others."""
        if ended.cancelled() or (error := ended.exception()) is None:
            return
        log.critical("worker_part_failed", part=ended.get_name(), error=describe(error), exc_info=error)
        for task in self._background:
            if task.get_name() == "heartbeat":
                task.cancel()
        self._failed()

    # ── claim ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def accept(self, stage_name: str, tickets: Sequence[Ticket]) -> None:
        """Claim this batch into slots as they come free; return once all of it is claimed, stale or handed back.

        Slots are reserved before the claim. A full worker hands tickets back after a short wait: another may be free,
        and the carrier is needed elsewhere.
        """
        stage = self._registry[stage_name]
        rest = list(tickets)
        while rest:
            reserved = await self.slots.reserve(min(len(rest), CLAIMED_AT_ONCE))
            if not reserved or not await self.claims.is_leased():
                self.slots.give_back(reserved)
                await self.claims.hand_back(stage, rest)
                return
            part, rest = rest[:reserved], rest[reserved:]
            free = reserved
            try:
                async for jobs in self.claims.claim(stage, part):
                    for job in jobs:
                        free -= 1
                        self._launch(stage, job)
            finally:
                self.slots.give_back(free)

    # ── run ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _launch(self, stage: Stage, job: Job) -> None:
        """Start the run of this claim beside no other of its job: a newer one has its place, an older one ends."""
        if other := self.running.get(job.id):
            if other.run.version >= job.version:  # a twin of the message found this claim too, or its answer was slow
                log.info("claim_dropped", stage=stage.name, job_id=str(job.id), reason="a newer run has its place")
                self.slots.give_back(1)
                return
            other.end("fence")  # nobody would tell it any more: what is watched is the newest run of each job
        run = Run(stage.name, job.id, job.version, job.retry_count + 1)
        now = time.monotonic()
        # Claimed as the drain began: given back at once.
        stop: Stop | None = "drain" if self._draining else None
        running = Running(stage, job, run, now, now + _seconds(stage, job), stop)
        self.running[run.job_id] = running
        self._events.started(run)
        running.task = asyncio.create_task(self._perform(running))

    async def _perform(self, running: Running) -> None:
        """Run one job to its outcome and hand that to the settler; whatever happens, its slot comes back."""
        current_run.set(running.run)
        structlog.contextvars.bind_contextvars(run=running.run)
        try:
            settlement = await self._settlement(running)
            if running.settling:  # a drain did not wait for it
                return
            if settlement is not None:
                self._settle(running, settlement)
                return
        except Exception:  # the loop's last line of defence: its deadline passes and the job is rescued
            log.exception("run_lost")
        self._finish(running)

    async def _settlement(self, running: Running) -> Settlement | None:
        """Return the handler's outcome, or what its exception means; None when the fence is gone."""
        if running.stop == "drain":
            return Release(DRAINING)
        running.entered = True
        if running.stop == "fence":
            return self._stopped(running)
        if reason := unreadable(running.job):
            log.warning("job_unreadable", reason=reason)
            return Fail(reason)
        try:
            outcome = await running.stage.handler(running.job, self._context(running))
        except (Exception, SystemExit, asyncio.CancelledError) as error:  # noqa: BLE001 - each has a meaning for its job
            if running.stop is None and (isinstance(error, Unavailable) or is_unusable(error)):
                return await self._outage(running, error)
            return self._meaning(running, error)
        return _checked(running.stage, outcome)

    def _meaning(self, running: Running, error: BaseException) -> Settlement | None:
        """Return what an exception out of the handler means for its job."""
        if running.stop in {"fence", "drain"}:
            return self._stopped(running)
        if isinstance(error, asyncio.CancelledError):
            if running.stop == "deadline":
                return Retry(f"deadline of {_seconds(running.stage, running.job):g} s passed")
            return Retry("handler was cancelled from within")
        log.warning("handler_raised", error=describe(error))
        if isinstance(error, PoolTimeoutError):  # this process is too busy; the job has done nothing wrong
            return Snooze(CROWDED_DELAY, "no database connection came free")
        return outcome_of(error)

    async def _outage(self, running: Running, error: BaseException) -> Settlement | None:
        """Return what becomes of a job whose provider or database is away: no fault of its own, for some hours."""
        if not (isinstance(error, Unavailable) and error.paused):  # of a pause all who wait would say the same
            log.warning("handler_raised", error=describe(error))
        like = PROVIDER_WAITS if isinstance(error, Unavailable) else DATABASE_WAITS
        before: Waited | None = None
        if not isinstance(error, Unavailable) or self._must_look(error):
            try:
                async with self._database.kernel() as conn:
                    before = await waited(conn, running.stage.name, running.run.job_id, like=like)
            except (Exception, asyncio.CancelledError) as unread:  # noqa: BLE001 - then it just waits
                log.warning("waits_not_read", error=describe(unread))
        if running.stop in {"fence", "drain"}:
            return self._stopped(running)
        if isinstance(error, Unavailable):
            return after_outage(error, before, now=self.clock(), patience=self._patience)
        return without_database(error, before, patience=self._patience, drawn=self._draw())

    def _must_look(self, error: Unavailable) -> bool:
        """Tell whether a job's own history decides: of thousands that wait for one pause it does not."""
        if not (error.paused or error.certain):
            return True
        return error.since is None or self.clock() - error.since >= self._patience

    def _stopped(self, running: Running) -> Settlement | None:
        """Return what a run leaves that was told to end, however its handler took it."""
        if running.stop == "drain":
            return Release(DRAINING)
        log.info("run_stopped", reason="its job was moved on by someone else")
        self._events.stopped(running.run)
        return None

    def _context(self, running: Running) -> Context:
        async def progress(percent: int) -> None:
            run = running.run
            shown = round(min(max(percent, 1), 99)) if percent < math.inf else 1  # a handler may reckon with anything

            async def show() -> bool:
                ticket = (run.job_id, run.version)
                try:
                    async with self._showing, self._database.kernel() as conn:
                        return await set_progress(conn, running.stage.model, ticket, shown)
                except Exception as error:
                    if not is_locked(error):
                        raise
                    return True  # a percentage is worth no wait; the fence is looked at every second anyway

            if not await outlasting(show):
                await self._end_stale(run)

        async def keep(values: Mapping[str, Any], write: Keep | None = None) -> None:
            run, stage = running.run, running.stage
            failpoint("checkpoint.before")
            async with self._database.session() as session:
                row = (run.job_id, run.version)
                held = await _keep(session, stage, row, values)
                if held and write and (found := await write(session)):
                    await _keep(session, stage, row, found)
            failpoint("checkpoint.after")
            if not held:
                await self._end_stale(run)

        return Context(
            run=running.run,
            llm=self._llm,
            session=self._database.session,
            progress=progress,
            checkpoint=keep,
            clock=self.clock,
            patience=self._patience,
        )

    async def _end_stale(self, run: Run) -> NoReturn:
        """End the calling run, which was cancelled or taken: nothing that costs may follow."""
        self.stop_run(run.job_id, "fence", version=run.version)
        await asyncio.sleep(0)  # where the cancellation is raised
        raise asyncio.CancelledError  # in a task that the handler made, which nobody else ends

    def clock(self) -> datetime:
        """Return the database's time, as of the last heartbeat's comparison."""
        return datetime.now(UTC) + self.clock_offset

    async def _keep_deadlines(self) -> None:
        """Cancel every handler whose time is up, and again while it goes on."""
        while True:
            await asyncio.sleep(DEADLINE_CHECK_SECONDS)
            now = time.monotonic()
            for running in list(self.running.values()):
                if now >= running.due:
                    running.due = now + REMINDER_SECONDS
                    running.end("deadline")

    # ── settle ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _settle(self, running: Running, settlement: Settlement, *, refused: bool = False) -> None:
        """Hand the outcome to the settler. An outcome that Postgres refuses becomes a failure of its job alone."""
        stage = running.stage
        row = decide(running.job, stage.step, stage.model.__lifecycle__, settlement, draw=self._draw)
        write = settlement.write if isinstance(settlement, Complete) else None
        running.settling = True

        def done(answer: bool | Exception) -> None:  # noqa: FBT001 - whether the fence held
            if isinstance(answer, Exception):
                log.warning("outcome_refused", error=describe(answer), run=running.run)
                if refused:  # what says so is refused as well: its deadline passes and the job is rescued
                    self._finish(running)
                    return
                self._settle(running, _refused(settlement, answer), refused=True)
                return
            if answer:
                self._events.settled(running.run, row, seconds=time.monotonic() - running.started)
            else:
                log.warning("stale_write_rejected", run=running.run)
                self._events.stale(running.run)
            self._finish(running)

        self._settler.submit(Item(stage.model, row, write, done))

    def _finish(self, running: Running) -> None:
        if self.running.get(running.run.job_id) is running:  # and not a newer run of a job taken from this one
            del self.running[running.run.job_id]
        self.slots.give_back(1)

    # ── stop ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def stop_run(self, job_id: UUID, why: Stop, *, version: int | None = None) -> None:
        """Cancel the task of one job, of that run only if ``version`` is given; repeated calls cancel again."""
        running = self.running.get(job_id)
        if running and version in {None, running.run.version}:
            running.end(why)

    def begin_drain(self) -> None:
        """Claim nothing more; batches that wait for slots are handed back."""
        self._draining = True
        self.claims.close()
        self.slots.close()

    async def drain(self, *, grace: float, watch: Watch) -> None:
        """Let running jobs finish for ``grace`` seconds, then cancel and release the rest; return when all is settled.

        What a handler does that goes on all the same, its fence rejects. Ends within ``grace`` + 4 s, whatever handlers
        or Postgres do: what could not be settled waits for its lease.
        """
        self.begin_drain()
        await watch.announce_drain(self)
        if not await self.slots.all_free(within=grace):
            log.info("drain_releases_running_jobs", jobs=len(self.running))
            for job_id in list(self.running):
                self.stop_run(job_id, "drain")
            if not await self.slots.all_free(within=ENDING_SECONDS):
                self._settle_unended()
                await self.slots.all_free(within=RELEASING_SECONDS)
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if self.slots.free == self.slots.count:
            await watch.say_goodbye(self)
        await watch.close()

    def _settle_unended(self) -> None:
        """Settle what was told to end and has not: its driver may wait for an answer that never comes.

        That is no fault of the job's, which would be rescued, an attempt poorer. A run that lost its fence has nothing
        to settle, and says so itself when it ends.
        """
        for running in list(self.running.values()):
            if running.settling or running.stop == "fence":
                continue
            if left := self._meaning(running, asyncio.CancelledError()):
                self._settle(running, left)


def _seconds(stage: Stage, job: Job) -> float:
    return job.timeout_seconds or stage.timeout.total_seconds()


async def _keep(session: AsyncSession, stage: Stage, row: Ticket, values: Mapping[str, Any]) -> bool:
    """Set ``values`` under the fence; raise Permanent for what no column can hold: it would be refused every time."""
    try:
        return await checkpoint(session, stage.model, row, _kept(stage, values))
    except (DataError, IntegrityError, ValueError, TypeError, RecursionError) as error:
        if isinstance(error, IntegrityError) and not isinstance(error.orig, CheckViolation):
            raise  # a row that it refers to is gone: what that means is said elsewhere
        raise Permanent(f"checkpoint refused: {values_problem(values) or describe(error)}") from error


def _refused(settlement: Settlement, error: Exception) -> Settlement:
    """Return what becomes of a job whose outcome was refused alone: a value that cannot be kept is wrong every time."""
    values, write = (settlement.values, settlement.write) if isinstance(settlement, Complete) else ({}, None)
    if (problem := values_problem(values)) is not None:
        return Fail(f"outcome refused: {problem}")
    return outcome_of(error) if write else Fail(f"outcome refused: {describe(error)}")


def _kept(stage: Stage, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``values`` if a checkpoint may set them; a handler that sets others is wrong every time."""
    if foreign := values.keys() - stage.settable - {"progress"}:
        raise Permanent(f"handler of {stage.name!r} kept {sorted(foreign)}, which are not its columns to set")
    return values


def _checked(stage: Stage, outcome: object) -> Settlement:
    """Return ``outcome`` if it is one; a handler that returns anything else is wrong every time."""
    match outcome:
        case Complete(values=values):
            if values and (foreign := values.keys() - stage.settable):
                return Fail(f"handler of {stage.name!r} set {sorted(foreign)}, which are not its columns to set")
            if problem := stage.problem_of(outcome):
                return Fail(f"handler of {stage.name!r} {problem}")
            return outcome
        case Snooze() | Fail() | Cancel():
            return outcome
        case _:
            return Fail(f"handler of {stage.name!r} must return an outcome, got {type(outcome).__name__!r}")
