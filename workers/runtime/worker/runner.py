"""Take batches, claim into free slots, run each job and hand its outcome to the settler.

Lives on one asyncio loop. The transport hands it batches; it knows no Celery.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog

from models.lifecycle import Job
from workers.runtime.bounds import values_problem
from workers.runtime.handler.context import Run, current_deadline, current_job, current_progress, current_run
from workers.runtime.handler.errors import describe, outcome_of
from workers.runtime.handler.outcomes import Complete, Fail, Settlement
from workers.runtime.handler.registry import Registry, Stage
from workers.runtime.store.claim import Ticket
from workers.runtime.worker.claims import Claims
from workers.runtime.worker.decisions import decide
from workers.runtime.worker.lane import Item
from workers.runtime.worker.perform import Performer
from workers.runtime.worker.runs import JobEvents, Running, Runs, Stop, seconds_of
from workers.runtime.worker.settler import Settler
from workers.runtime.worker.slots import Slots

log = structlog.get_logger(__name__)

# Jobs in one claim: its answer is held in memory as a whole, and a payload may have a mebibyte.
CLAIMED_AT_ONCE = 256
# A drain waits so long for handlers that were told to end, and then for Postgres to take what is left of them.
ENDING_SECONDS, RELEASING_SECONDS = 1.0, 2.0


class Runner:
    """Runs up to as many jobs at once as there are slots, each under its fence, deadline and lease."""

    def __init__(
        self,
        registry: Registry,
        *,
        slots: Slots,
        runs: Runs,
        claims: Claims,
        performer: Performer,
        settler: Settler,
        events: JobEvents,
        draw: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._slots = slots
        self._runs = runs
        self._claims = claims
        self._performer = performer
        self._settler = settler
        self._events = events
        self._draw = draw
        self._draining = False

    # ── claim ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def accept(self, stage_name: str, tickets: Sequence[Ticket]) -> None:
        """Claim this batch into slots as they come free; return once all of it is claimed, stale or handed back.

        Slots are reserved before the claim. A full worker hands tickets back after a short wait: another may be free,
        and the carrier is needed elsewhere.
        """
        stage = self._registry[stage_name]
        rest = list(tickets)
        while rest:
            reserved = await self._slots.reserve(min(len(rest), CLAIMED_AT_ONCE))
            if not reserved or not await self._claims.is_leased():
                self._slots.give_back(reserved)
                await self._claims.hand_back(stage, rest)
                return
            part, rest = rest[:reserved], rest[reserved:]
            free = reserved
            try:
                async for jobs in self._claims.claim(stage, part):
                    for job in jobs:
                        free -= 1
                        self._launch(stage, job)
            finally:
                self._slots.give_back(free)

    # ── run ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _launch(self, stage: Stage, job: Job) -> None:
        """Start the run of this claim beside no other of its job: a newer one has its place, an older one ends."""
        if other := self._runs.get(job.id):
            if other.run.version >= job.version:  # a twin of the message found this claim too, or its answer was slow
                log.info("claim_dropped", stage=stage.name, job_id=str(job.id), reason="a newer run has its place")
                self._slots.give_back(1)
                return
            other.end("fence")  # nobody would tell it any more: what is watched is the newest run of each job
        run = Run(stage.name, job.id, job.version, job.retry_count + 1)
        now = time.monotonic()
        # Claimed as the drain began: given back at once.
        stop: Stop | None = "drain" if self._draining else None
        running = Running(stage, job, run, now, now + seconds_of(stage, job), stop)
        self._runs.put(running)
        self._events.started(run)
        running.task = asyncio.create_task(self._perform(running))

    async def _perform(self, running: Running) -> None:
        """Run one job to its outcome and hand that to the settler; whatever happens, its slot comes back."""
        current_run.set(running.run)
        current_job.set(running.job)
        current_deadline.set(running.due)
        current_progress.set(running.progress)
        structlog.contextvars.bind_contextvars(run=running.run)
        try:
            settlement = await self._performer.settlement(running)
            if running.settling:  # a drain did not wait for it
                return
            if settlement is not None:
                self._settle(running, settlement)
                return
        except Exception:  # the loop's last line of defence: its deadline passes and the job is rescued
            log.exception("run_lost")
        self._finish(running)

    # ── settle ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _settle(self, running: Running, settlement: Settlement, *, refused: bool = False) -> None:
        """Hand the outcome to the settler. An outcome that Postgres refuses becomes a failure of its job alone."""
        stage = running.stage
        row = decide(running.job, stage.step, stage.model.__lifecycle__, settlement, draw=self._draw)
        writes = settlement.writes if isinstance(settlement, Complete) else ()
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

        self._settler.submit(Item(stage.model, row, writes, done))

    def _finish(self, running: Running) -> None:
        self._runs.remove(running)
        self._slots.give_back(1)

    # ── stop ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def begin_drain(self) -> None:
        """Claim nothing more; batches that wait for slots are handed back."""
        self._draining = True
        self._claims.close()
        self._slots.close()

    async def drain(self, *, grace: float) -> None:
        """Let running jobs finish for ``grace`` seconds, then cancel and release the rest; return when all is settled.

        What a handler does that goes on all the same, its fence rejects. Ends within ``grace`` + 3 s, whatever handlers
        or Postgres do: what could not be settled waits for its lease.
        """
        self.begin_drain()
        if await self._slots.all_free(within=grace):
            return
        log.info("drain_releases_running_jobs", jobs=len(self._runs))
        for running in self._runs:
            running.end("drain")
        if not await self._slots.all_free(within=ENDING_SECONDS):
            self._settle_unended()
            await self._slots.all_free(within=RELEASING_SECONDS)

    def _settle_unended(self) -> None:
        """Settle what was told to end and has not: its driver may wait for an answer that never comes.

        That is no fault of the job's, which would be rescued, an attempt poorer. A run that lost its fence has nothing
        to settle, and says so itself when it ends.
        """
        for running in self._runs:
            if running.settling or running.stop == "fence":
                continue
            if left := self._performer.meaning(running, asyncio.CancelledError()):
                self._settle(running, left)


def _refused(settlement: Settlement, error: Exception) -> Settlement:
    """Return what becomes of a job whose outcome was refused alone: a value that cannot be kept is wrong every time."""
    values, write = (settlement.values, settlement.write) if isinstance(settlement, Complete) else ({}, None)
    if (problem := values_problem(values)) is not None:
        return Fail(f"outcome refused: {problem}")
    return outcome_of(error) if write else Fail(f"outcome refused: {describe(error)}")
