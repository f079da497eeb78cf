"""What the leading dispatcher does in each tick: dispatch due jobs, take back lost tickets, rescue and wake jobs."""

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial

import structlog

from workers.runtime.database import Raw
from workers.runtime.dispatch.crowds import beside
from workers.runtime.dispatch.gates import GateLooks
from workers.runtime.dispatch.guard import TableGuard, await_answer
from workers.runtime.dispatch.held import Held
from workers.runtime.dispatch.picks import Picks
from workers.runtime.dispatch.rate import DispatchRate
from workers.runtime.dispatch.road import Road
from workers.runtime.dispatch.rollups import CHANNEL, Rollups
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.errors import describe
from workers.runtime.handler.registry import Registry, Stage
from workers.runtime.store.dispatch import Picked, Window, unmark, unmark_exactly, wake_due
from workers.runtime.store.processes import StageCapacity, report_leader, survey
from workers.runtime.store.rescue import rescue_expired
from workers.runtime.store.tables import job_table
from workers.runtime.store.wake import read_traceparents
from workers.runtime.tracing import is_tracing, span

log = structlog.get_logger(__name__)

MAX_PER_PASS = 512
# A tick that picks at least this many jobs is busy. A busy leader polls without a pause, and enqueues do not notify it.
BUSY_JOBS = 64
RESCUE_SECONDS = 1.0
SURVEY_SECONDS = 0.25
SHARES_SECONDS = 1.0
ROAD_CHECK_SECONDS = 0.5
WAKE_SECONDS = 0.1
LEASE_RENEWAL_SECONDS = 1.0
BUSY_REST_SECONDS = 0.002
DISPATCH_GATHER_SECONDS = 0.008
# From this rate on, the leader waits for more jobs before it picks again. At a lower rate a second job rarely comes
# in time, and each job would wait for nothing.
GATHER_JOBS_PER_SECOND = 60.0
# A freed slot gets its next job after about this long, because of the broker. The dispatcher keeps enough jobs
# published to fill this time.
PUBLISH_TO_CLAIM_SECONDS = 0.05
# A ticket is kept this many times longer while its message may still be in the queue.
PATIENCE_WHILE_QUEUED = 6


class Leader:
    """The state of one leadership, kept between ticks; the next leader builds its own from the rows."""

    def __init__(
        self,
        connection: Raw,
        term: int,
        registry: Registry,
        road: Road,
        *,
        batch_size: int,
        poll_seconds: float,
        redispatch: timedelta,
        gates: GateLooks | None = None,
    ) -> None:
        self._connection = connection
        self._term = term
        self._registry = registry
        self._road = road
        self._batch_size = batch_size
        self._poll_seconds = poll_seconds
        self._redispatch = redispatch
        self._guard = TableGuard(connection)
        self._held = Held(connection, term, self._guard, registry, gates)
        self._picks = Picks(connection, term, self._guard, self._held)
        self._rollups = Rollups(connection, term)
        self._rates: dict[str, DispatchRate] = {}
        self._capacity: dict[str, StageCapacity] = {}
        self._since = time.monotonic()
        self._listening = True
        self._road_is_open = True
        self._due: dict[str, float] = {}
        self._notified: set[str] | None = None

    def _is_time(self, chore: str, every: float) -> bool:
        """Tell whether ``chore`` was last done more than ``every`` seconds ago; if so, count it as done now."""
        now = time.monotonic()
        if now < self._due.get(chore, 0.0):
            return False
        self._due[chore] = now + every
        return True

    async def tick(self) -> None:
        """Renew the lease, dispatch due jobs, do the due chores, then sleep until a NOTIFY or the next poll."""
        if self._is_time("report", LEASE_RENEWAL_SECONDS):
            await await_answer(report_leader(self._connection, self._term))
        if self._is_time("survey", SURVEY_SECONDS):
            self._capacity = await await_answer(survey(self._connection))
            await self._held.look()
        await self._held.take()
        await self._held.tell()
        if self._is_time("shares", SHARES_SECONDS):
            await self._look_at_shares()
        if self._is_time("poll", self._poll_seconds):
            self._notified = None  # look at every table, even if one table notifies all the time
        picked = await self._dispatch_all() if self._road_is_open else 0
        if await self._do_chores():
            self._notified = None
        else:
            await self._rest(picked)

    async def _do_chores(self) -> bool:
        """Check the broker, rescue and wake jobs, hand out notices; return whether any job became ready by this."""
        woken = await self._rollups.take()
        await self._rollups.fold()
        if self._is_time("road", ROAD_CHECK_SECONDS):
            woken += await self._take_back_lost()
        if self._is_time("rescue", RESCUE_SECONDS):
            woken += await self._rescue()
        if self._is_time("wake", WAKE_SECONDS):
            for model in {stage.model for stage in self._registry.values()}:
                woken += await self._guard.run(model, partial(wake_due, self._connection, model, term=self._term), 0)
            woken += await self._held.wake()
        return woken > 0

    async def _rest(self, picked: int) -> None:
        """Sleep; how long depends on how many jobs the tick picked.

        Enqueues notify the leader only while it is idle, because a NOTIFY for each of many enqueues slows them down.
        """
        busy = picked >= BUSY_JOBS
        self._notified = None
        if busy == self._listening:
            self._listening = not busy
            await await_answer(report_leader(self._connection, self._term, listening=self._listening))
            return  # look once more: jobs may have been enqueued without a NOTIFY
        if busy:
            await asyncio.sleep(BUSY_REST_SECONDS)
            return
        if picked and sum(rate.per_second() for rate in self._rates.values()) > GATHER_JOBS_PER_SECOND:
            # Jobs that become ready during this sleep go into the same batch: fewer messages cost less.
            await asyncio.sleep(DISPATCH_GATHER_SECONDS)
        longest = min(self._poll_seconds, LEASE_RENEWAL_SECONDS)  # a longer sleep would lose the lease
        notices = self._connection.notifies(timeout=longest, stop_after=1)
        rang = [(notice.channel, notice.payload) async for notice in notices]
        if any(channel == CHANNEL for channel, _ in rang):
            self._rollups.ring()
        self._notified = {table for channel, table in rang if channel != CHANNEL} or None

    async def _dispatch_all(self) -> int:
        """Dispatch every stage; after a NOTIFY, only the stages of the tables that sent one."""
        picked = 0
        for stage in self._registry.values():
            if self._notified is not None and job_table(stage.model).label not in self._notified:
                continue
            capacity = self._capacity.get(stage.name)
            if self._road_is_open and capacity and not capacity.paused and capacity.slots:
                picked += await self._dispatch(stage, capacity.slots)
        return picked

    async def _dispatch(self, stage: Stage, slots: int) -> int:
        capacity = self._capacity[stage.name]
        rate = self._rates.setdefault(stage.name, DispatchRate())
        floor = 1 + int(rate.per_second() * PUBLISH_TO_CLAIM_SECONDS)
        failpoint("dispatch.before")
        jobs = await self._picks.some(stage, Window(slots, MAX_PER_PASS, floor=floor, beside=beside(capacity)))
        rate.count(len(jobs))
        if jobs:
            failpoint("dispatch.after")
        share = math.ceil(len(jobs) / capacity.workers)
        size = max(1, min(self._batch_size, share))
        for start in range(0, len(jobs), size):
            if not await self._publish(stage, jobs[start : start + size]):
                await self._take_back(stage, jobs[start:])
                return start
        return len(jobs)

    async def _look_at_shares(self) -> None:
        for stage in self._registry.values():
            rate = self._rates.setdefault(stage.name, DispatchRate()).per_second()
            await self._held.look_at_shares(stage, self._capacity.get(stage.name), per_second=rate)

    async def _publish(self, stage: Stage, batch: Sequence[Picked]) -> bool:
        try:
            failpoint("publish.before")
            await (self._publish_traced(stage, batch) if is_tracing() else self._road.publish(stage, batch))
            failpoint("publish.after")
        except Exception as error:  # noqa: BLE001 - the broker's library may raise any error: nothing is published then
            self._road_is_open = False
            log.warning("publish_failed", stage=stage.name, error=describe(error))
        return self._road_is_open

    async def _publish_traced(self, stage: Stage, batch: Sequence[Picked]) -> None:
        """Publish in a span that is linked with the traces of who enqueued the jobs."""
        producers = partial(read_traceparents, self._connection, stage.model, [job.id for job in batch])
        none: list[str] = []
        links = await self._guard.run(stage.model, producers, none)
        with span(f"dispatch {stage.name}", links=links, attributes={"gristmill.jobs": len(batch)}):
            await self._road.publish(stage, batch)

    async def _take_back(self, stage: Stage, jobs: Sequence[Picked]) -> None:
        """Take back the tickets of all unpublished jobs; to try each batch would stall the leader."""
        tickets = [(job.id, job.version) for job in jobs]
        take_back = partial(unmark_exactly, self._connection, stage.model, tickets, term=self._term)
        await self._guard.run(stage.model, take_back, None)

    async def _take_back_lost(self) -> int:
        """Take back lost tickets: all of them if the broker lost its data, else those that nobody claimed for long."""
        taken_back = 0
        try:
            lost = await self._road.lost_everything()
            self._road_is_open = True
        except Exception as error:  # noqa: BLE001 - as above
            if self._road_is_open:
                log.warning("road_closed", error=describe(error))
            self._road_is_open = False
            return 0
        for stage in self._registry.values():
            capacity = self._capacity.get(stage.name)
            age = timedelta() if lost or (capacity and capacity.paused) else await self._patience(stage)
            take_back = partial(unmark, self._connection, stage, older_than=age, term=self._term)
            count = await self._guard.run(stage.model, take_back, 0)
            if count:
                log.warning("dispatched_again", stage=stage.name, jobs=count, road_lost_everything=lost)
            taken_back += count
        return taken_back

    async def _patience(self, stage: Stage) -> timedelta:
        """Return how long a ticket may stay unclaimed: longer while its queue holds messages, as workers are busy."""
        with suppress(Exception):
            if not await self._road.is_empty(stage.queue):
                return PATIENCE_WHILE_QUEUED * self._redispatch
        return self._redispatch

    async def _rescue(self) -> int:
        rescued = 0
        led_for = timedelta(seconds=time.monotonic() - self._since)
        for stage in self._registry.values():
            failpoint("rescue.before")
            free = partial(rescue_expired, self._connection, stage, led_for=led_for, term=self._term)
            count = await self._guard.run(stage.model, free, 0)
            if count:
                failpoint("rescue.after")
                log.warning("rescued", stage=stage.name, jobs=count)
            rescued += count
        return rescued
