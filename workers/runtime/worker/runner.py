"""Take batches, claim jobs into free slots, run each job and pass its outcome to the settler.

Everything runs on one asyncio loop. The transport passes the batches; this module knows no Celery.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog

from models.lifecycle import Job
from workers.runtime.bounds import values_problem
from workers.runtime.handler.context import (
    Run,
    current_deadline,
    current_job,
    current_progress,
    current_run,
    current_turns,
)
from workers.runtime.handler.errors import describe, outcome_of
from workers.runtime.handler.outcomes import Complete, Fail, Settlement
from workers.runtime.handler.registry import Registry, Stage
from workers.runtime.shares import crowd_of
from workers.runtime.store.claim import Ticket
from workers.runtime.tracing import is_tracing, span, trace_id_of
from workers.runtime.worker.claims import Claims
from workers.runtime.worker.lane import Item
from workers.runtime.worker.perform import Performer
from workers.runtime.worker.reporting import Reports
from workers.runtime.worker.runs import Running, RunReports, Runs, Stop, max_run_seconds
from workers.runtime.worker.settled_row import settled_row
from workers.runtime.worker.settler import Settler
from workers.runtime.worker.slots import Slots

log = structlog.get_logger(__name__)

# The whole answer of a claim is held in memory, and one payload may have a mebibyte.
MAX_PER_CLAIM = 256
# How long a drain waits for cancelled handlers to end, and then for Postgres to record what is left.
ENDING_SECONDS, RELEASING_SECONDS = 1.0, 2.0


class Runner:
    """Runs jobs in the slots of its process, each under its fence, deadline and lease."""

    def __init__(
        self,
        registry: Registry,
        *,
        slots: Slots,
        runs: Runs,
        claims: Claims,
        performer: Performer,
        settler: Settler,
        events: RunReports,
        reports: Reports,
        draw: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._slots = slots
        self._runs = runs
        self._claims = claims
        self._performer = performer
        self._settler = settler
        self._events = events
        self._reports = reports
        self._draw = draw
        self._draining = False

    # ── claim ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def accept(self, stage_name: str, tickets: Sequence[Ticket]) -> None:
        """Claim this batch when slots become free; return when each ticket is claimed, stale or given back.

        Slots are reserved before the claim. If no slot becomes free within a short time, the tickets are given back:
        another worker may be free, and the carrier task has other batches to deliver. If one owner or key holds more
        than its share of the slots, the jobs of others run beside them.
        """
        stage = self._registry[stage_name]
        rest = list(tickets)
        while rest:
            if taken := self._slots.take(stage.name, min(len(rest), MAX_PER_CLAIM)):
                part, rest = rest[:taken], rest[taken:]
            elif part := await self._take_beside(stage, rest):
                rest = [ticket for ticket in rest if ticket not in part]
                if not await self._claim(stage, part, len(part), beside=True):
                    rest += part
                    break
                continue
            elif reserved := await self._slots.reserve(stage.name, min(len(rest), MAX_PER_CLAIM)):
                part, rest, taken = rest[:reserved], rest[reserved:], reserved
            else:
                break
            if not await self._claim(stage, part, taken):
                rest = [*part, *rest]
                break
        if rest:
            await self._claims.hand_back(stage, rest)

    async def _take_beside(self, stage: Stage, tickets: Sequence[Ticket]) -> list[Ticket]:
        """Return tickets that take room beside the slots: of owners and keys that hold less than their share.

        Nobody gets it unless some owner or key of this stage holds more than its share.
        """
        crowd = crowd_of(*self._runs.holders(stage), slots=self._slots.count)
        if not crowd or self._slots.room_beside(stage.name) <= 0:
            return []
        groups = await self._claims.groups(stage, tickets)
        passing = [ticket for ticket in tickets if (one := groups.get(ticket)) and not crowd.has(one.owner, one.key)]
        return passing[: self._slots.take_beside(stage.name, min(len(passing), MAX_PER_CLAIM))]

    async def _claim(self, stage: Stage, tickets: Sequence[Ticket], taken: int, *, beside: bool = False) -> bool:
        """Claim into the slots that were taken and start the runs; return False if there is no lease to claim under."""
        free = taken
        try:
            if not await self._claims.is_leased():
                return False
            async for jobs in self._claims.claim(stage, tickets):
                for job in jobs:
                    free -= 1
                    self._launch(stage, job, beside=beside)
        finally:
            self._slots.give_back(stage.name, free, beside=beside)
        return True

    # ── run ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _launch(self, stage: Stage, job: Job, *, beside: bool) -> None:
        """Start the run of this claim, unless a newer run of its job exists; stop an older run of the job."""
        if other := self._runs.get(job.id):
            if other.run.version >= job.version:  # a duplicate message found this claim too, or its answer was slow
                log.info("claim_dropped", stage=stage.name, job_id=str(job.id), reason="a newer run has its place")
                self._slots.give_back(stage.name, beside=beside)
                return
            other.end("fence")  # only the newest run of each job is watched, so nothing else would stop this one
        self._reports.claimed(stage, job)
        run = Run(stage.name, job.id, job.version, job.retry_count + 1)
        now = time.monotonic()
        # If the drain has begun during the claim, the job is released at once.
        stop: Stop | None = "drain" if self._draining else None
        running = Running(stage, job, run, now, now + max_run_seconds(stage, job), stop, beside=beside)
        self._runs.put(running)
        self._events.started(run)
        running.task = asyncio.create_task(self._perform(running))

    async def _perform(self, running: Running) -> None:
        """Run one job and pass its outcome to the settler; give its slot back whatever happens."""
        current_run.set(running.run)
        current_job.set(running.job)
        current_deadline.set(running.due)
        current_progress.set(running.progress)
        current_turns.set(running.turns)
        structlog.contextvars.bind_contextvars(run=running.run)
        if (trace_id := trace_id_of(running.job.traceparent)) is not None:
            structlog.contextvars.bind_contextvars(trace_id=trace_id)
        try:
            settlement = await (self._traced(running) if is_tracing() else self._performer.settlement(running))
            if running.settling:  # the drain has already settled it
                return
            if settlement is not None:
                self._settle(running, settlement)
                return
        except Exception:  # an unexpected error: the job's deadline passes and it is rescued
            log.exception("run_lost")
        self._finish(running)

    async def _traced(self, running: Running) -> Settlement | None:
        """Return the settlement of a run that is a span, linked with the trace of who enqueued its job."""
        run = running.run
        attributes = {"gristmill.job_id": str(run.job_id), "gristmill.version": run.version}
        with span(f"run {run.stage}", links=[running.job.traceparent], attributes=attributes):
            return await self._performer.settlement(running)

    # ── settle ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _settle(self, running: Running, settlement: Settlement, *, refused: bool = False) -> None:
        """Pass the outcome to the settler. If Postgres refuses the outcome, only its job fails."""
        stage = running.stage
        row = settled_row(running.job, stage.step, stage.model.__lifecycle__, settlement, draw=self._draw)
        writes = settlement.writes if isinstance(settlement, Complete) else ()
        running.settling = True
        ended = time.monotonic()

        def done(answer: bool | Exception) -> None:  # noqa: FBT001 - whether the fence was valid
            if isinstance(answer, Exception):
                log.warning("outcome_refused", error=describe(answer), run=running.run)
                if refused:  # the failure was refused as well: the deadline passes and the job is rescued
                    self._finish(running)
                    return
                self._settle(running, _settlement_after_refusal(settlement, answer), refused=True)
                return
            if answer:
                now, times = time.monotonic(), self._reports.times(stage)
                times.run.observe(ended - running.started)
                times.settle.observe(now - ended)
                self._events.settled(running.run, row, seconds=now - running.started)
            else:
                log.warning("stale_write_rejected", run=running.run)
                self._reports.stale(stage).add()
                self._events.stale(running.run)
            self._finish(running)

        self._settler.submit(Item(stage.model, row, writes, done))

    def _finish(self, running: Running) -> None:
        self._runs.remove(running)
        self._slots.give_back(running.stage.name, beside=running.beside)

    # ── stop ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def begin_drain(self) -> None:
        """Claim nothing more; give back the batches that wait for slots."""
        self._draining = True
        self._claims.close()
        self._slots.close()

    async def drain(self, *, grace: float) -> None:
        """Let running jobs finish for ``grace`` seconds, then cancel and release the rest; return when all is settled.

        If a handler goes on after that, its fence rejects its writes. Ends within ``grace`` + 3 s, whatever handlers or
        Postgres do: a job that could not be settled is rescued when the lease runs out.
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
        """Release the jobs of handlers that were cancelled but have not ended, for example in a database driver.

        Otherwise these jobs would be rescued, which costs an attempt without a fault of theirs. A run that lost its
        fence has nothing to settle, and reports that itself when it ends.
        """
        for running in self._runs:
            if running.settling or running.stop == "fence":
                continue
            if left := self._performer.settlement_after(running, asyncio.CancelledError()):
                self._settle(running, left)


def _settlement_after_refusal(settlement: Settlement, error: Exception) -> Settlement:
    """Return the settlement of a job after its outcome was refused. A value that cannot be stored fails the job."""
    values, write = (settlement.values, settlement.write) if isinstance(settlement, Complete) else ({}, None)
    if (problem := values_problem(values)) is not None:
        return Fail(f"outcome refused: {problem}")
    return outcome_of(error) if write else Fail(f"outcome refused: {describe(error)}")
