"""The dispatcher: one leads, picks due jobs inside every limit, marks them and publishes them in batches.

Any number run; a lease in ``runtime.dispatcher``, which no service may write, makes one the leader. Each statement of
the leader names its term, so that one which stalled changes nothing after another has taken the lead. A leader that
stalls is disconnected by Postgres itself too (``idle_session_timeout``). Publishing is handed in: this room knows no
Celery and no Redis.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, Protocol, TypeVar

import structlog

from models.lifecycle import Job
from workers.runtime.backoff import reconnect_seconds
from workers.runtime.connections import refusal_of
from workers.runtime.database import Database, Raw, is_caused_by_a_row, is_database_away, is_locked
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.errors import describe
from workers.runtime.handler.registry import Registry, Stage
from workers.runtime.store.dispatch import Pass, Picked, Window, pick, unmark, unmark_exactly, wake_due
from workers.runtime.store.processes import (
    LostLeadError,
    StageCapacity,
    publish_limits,
    report_leader,
    survey,
    try_to_lead,
)
from workers.runtime.store.rescue import rescue_expired
from workers.runtime.store.tables import job_table

log = structlog.get_logger(__name__)

T = TypeVar("T")

FOLLOW_SECONDS = 0.5
# The indexes give every order that is asked for: under stale statistics the planner would rather sort a million rows.
LEADER_SESSION = (
    "-c idle_session_timeout=3s -c idle_in_transaction_session_timeout=3s -c lock_timeout=500ms"
    " -c enable_seqscan=off -c enable_bitmapscan=off -c enable_sort=off -c jit=off"
)
# Rows that somebody holds are skipped; for a whole table the leader waits so long, and then leaves it for a while.
LOCKED_REST_SECONDS = 2.0
# A leader that gets no answer for so long leads no more, whatever it believes: Postgres has ended its session.
ANSWER_SECONDS = 15.0
# A dispatcher that fails whenever it leads rests up to this long between its tries.
MAX_PAUSE_SECONDS = 30
# If it led or followed this long before it failed, the failure is the first one.
LONG_SECONDS = 60.0
MOST_PER_PASS = 512
# A stage with a backlog this long is busy: the leader looks by itself and asks not to be rung for every enqueue.
BUSY = 64
RESCUE_SECONDS = 1.0
SURVEY_SECONDS = 0.25
ROAD_CHECK_SECONDS = 0.5
WAKE_SECONDS = 0.1
REPORT_SECONDS = 1.0
BUSY_REST_SECONDS = 0.002
GATHER_SECONDS = 0.008
# Jobs per second from which on gathering is worth it: below, a second one hardly ever comes along, and each waits.
GATHER_FROM = 60.0
# From a freed slot to the next job in it, the road takes about this long; so much work is kept on it.
ROAD_SECONDS = 0.05


class Road(Protocol):
    """The way to the workers: at least once, in no order, and it may lose everything."""

    async def publish(self, stage: Stage, batch: Sequence[Picked]) -> None:
        """Hand one batch to the workers; raise if that cannot be done within a few seconds."""

    async def lost_everything(self) -> bool:
        """Tell whether the road has been emptied since it was last asked; raise if it cannot be reached."""

    async def is_empty(self, queue: str) -> bool:
        """Tell whether no message of ``queue`` waits to be taken."""


class Dispatcher:
    """One dispatcher process: follows until it can lead, leads until its connection goes."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        road: Road,
        *,
        name: str,
        batch_size: int = 256,
        poll_seconds: float = 0.2,
        redispatch_seconds: float = 5.0,
    ) -> None:
        self._database = database
        self.registry = registry
        self.road = road
        self._name = name
        self.batch_size = batch_size
        self.poll_seconds = poll_seconds
        self.redispatch = timedelta(seconds=redispatch_seconds)
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Finish the pass under way, then return from :meth:`run`."""
        self._stop.set()

    async def run(self) -> None:
        """Follow and lead until stopped; outlive any absence of Postgres or Redis."""
        attempt = failures = 0
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                await self._follow_then_lead()
                attempt = 0
            except Exception as error:  # noqa: BLE001 - logged, and tried again: a dispatcher outlives everything
                attempt += 1
                if time.monotonic() - began > LONG_SECONDS:
                    failures = 0
                failures += not isinstance(error, LostLeadError) and not is_database_away(error)
                pause = 0.2 + reconnect_seconds(attempt, draw=random.random) + _pause(failures)
                _tell(error, attempt=attempt, failures=failures, pause=pause)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), pause)

    async def _follow_then_lead(self) -> None:
        connection = await self._database.listen(settings=LEADER_SESSION)
        try:
            while not self._stop.is_set():
                async with asyncio.timeout(ANSWER_SECONDS):
                    term = await try_to_lead(connection, name=self._name)
                if term is not None:
                    log.info("dispatcher_leads", name=self._name, term=term)
                    await self._lead(connection, term)
                    return
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), FOLLOW_SECONDS)
        finally:
            with suppress(Exception):
                await connection.close()

    async def _lead(self, connection: Raw, term: int) -> None:
        async with asyncio.timeout(ANSWER_SECONDS):
            await connection.execute("LISTEN gristmill_work")
            await publish_limits(connection, self.registry.values())
        leading = _Leading(self, connection, term)
        while not self._stop.is_set():
            await leading.tick()


def _pause(failures: int) -> float:
    """Return how long a dispatcher rests that failed so often in a row: it would only take the lead to fail again."""
    return float(min(2 ** (failures - 1), MAX_PAUSE_SECONDS)) if failures else 0.0


def _tell(error: Exception, *, attempt: int, failures: int, pause: float) -> None:
    """Log why the dispatcher follows again; where a failure is new, with its traceback."""
    if isinstance(error, LostLeadError):
        log.warning("dispatcher_lost_lead", error=str(error))
    elif is_database_away(error):
        log.warning("dispatcher_lost_database", error=describe(error), attempt=attempt)
    else:
        refusal = refusal_of(error)
        reason = str(refusal) if refusal else describe(error)
        log.error("dispatcher_pass_failed", error=reason, again_in=round(pause, 1), exc_info=failures == 1)


class Pace:
    """How many jobs went out per second, of late: a count that fades with a time constant of one second."""

    def __init__(self) -> None:
        self._jobs = 0.0
        self._at = time.monotonic()

    def per_second(self) -> float:
        now = time.monotonic()
        self._jobs *= math.exp(self._at - now)
        self._at = now
        return self._jobs

    def count(self, jobs: int) -> None:
        self._jobs = self.per_second() + jobs


async def _answered(asked: Awaitable[T]) -> T:
    """Return the answer; raise TimeoutError where none comes in time, with the connection closed if it is silent."""
    async with asyncio.timeout(ANSWER_SECONDS):
        return await asked


class _Leading:
    """What a leader remembers between ticks; gone with its leadership, and rebuilt from the rows by the next."""

    def __init__(self, dispatcher: Dispatcher, connection: Raw, term: int) -> None:
        self._d = dispatcher
        self._connection = connection
        self._term = term
        self._cursors: dict[str, Any] = {}
        self._paces: dict[str, Pace] = {}
        self._capacity: dict[str, StageCapacity] = {}
        self._since = time.monotonic()
        self._listening = True
        self._road_is_open = True
        self._due: dict[str, float] = {}
        self._locked: dict[type[Job], float] = {}
        self._rung: set[str] | None = None

    def _is_time(self, chore: str, every: float) -> bool:
        """Tell whether ``chore`` was last done more than ``every`` seconds ago, and count it as done now."""
        now = time.monotonic()
        if now < self._due.get(chore, 0.0):
            return False
        self._due[chore] = now + every
        return True

    async def _unless_locked(self, model: type[Job], chore: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """Return what ``chore`` returns; ``otherwise`` if its table is locked or slow, or a row of it is refused.

        The table is then left alone for a while, because the other tables must not wait for it.
        """
        if time.monotonic() < self._locked.get(model, 0.0):
            return otherwise
        try:
            return await _answered(chore())
        except Exception as error:
            # So slow that it was ended, as under the statistics of another hour.
            slow = isinstance(error, TimeoutError) and not self._connection.closed
            refused = is_caused_by_a_row(error)
            if not slow and not refused and not is_locked(error):
                raise
            self._locked[model] = time.monotonic() + LOCKED_REST_SECONDS
            event = "table_is_slow" if slow else "table_has_a_bad_row" if refused else "table_is_locked"
            log.warning(event, table=job_table(model).label, error=describe(error))
            return otherwise

    async def tick(self) -> None:
        """Renew the lease, dispatch what is due, do the chores whose time has come, then sleep until rung or polled."""
        if self._is_time("report", REPORT_SECONDS):
            await _answered(report_leader(self._connection, self._term))
        if self._is_time("survey", SURVEY_SECONDS):
            self._capacity = await _answered(survey(self._connection))
        if self._is_time("poll", self._d.poll_seconds):
            self._rung = None  # one table that rings all the time must not keep the others from being looked at
        picked = await self._dispatch_all() if self._road_is_open else 0
        if await self._chores():
            self._rung = None
        else:
            await self._rest(picked)

    async def _chores(self) -> bool:
        """Look after the road, rescue, wake; return whether any job became ready by it."""
        woken = 0
        if self._is_time("road", ROAD_CHECK_SECONDS):
            woken += await self._look_after_road()
        if self._is_time("rescue", RESCUE_SECONDS):
            woken += await self._rescue()
        if self._is_time("wake", WAKE_SECONDS):
            for model in {stage.model for stage in self._d.registry.values()}:
                woken += await self._unless_locked(
                    model, partial(wake_due, self._connection, model, term=self._term), 0
                )
        return woken > 0

    async def _rest(self, picked: int) -> None:
        """Sleep by how busy the tick was. Rung only when idle: ringing for each of many enqueues would slow them."""
        busy = picked >= BUSY
        self._rung = None
        if busy == self._listening:
            self._listening = not busy
            await _answered(report_leader(self._connection, self._term, listening=self._listening))
            return  # one more look, for what was enqueued while nobody rang
        if busy:
            await asyncio.sleep(BUSY_REST_SECONDS)
            return
        if picked and sum(pace.per_second() for pace in self._paces.values()) > GATHER_FROM:
            # What is enqueued or set free meanwhile goes along in one batch: messages are what costs.
            await asyncio.sleep(GATHER_SECONDS)
        longest = min(self._d.poll_seconds, REPORT_SECONDS)  # who sleeps longer loses its lease
        notices = self._connection.notifies(timeout=longest, stop_after=1)
        self._rung = {notice.payload async for notice in notices} or None

    async def _dispatch_all(self) -> int:
        """Dispatch every stage, or after a bell those whose table rang."""
        picked = 0
        for stage in self._d.registry.values():
            if self._rung is not None and job_table(stage.model).label not in self._rung:
                continue
            capacity = self._capacity.get(stage.name)
            if self._road_is_open and capacity and not capacity.paused and capacity.slots:
                picked += await self._dispatch(stage, capacity.slots)
        return picked

    async def _dispatch(self, stage: Stage, slots: int) -> int:
        cursor = self._cursors.get(stage.name)
        pace = self._paces.setdefault(stage.name, Pace())
        window = Window(slots, MOST_PER_PASS, floor=1 + int(pace.per_second() * ROAD_SECONDS))
        failpoint("dispatch.before")

        async def pick_some() -> Pass:
            done = await pick(self._connection, stage, window, cursor=cursor, term=self._term)
            if cursor is not None and done.cursor is None and not done.jobs:
                done = await pick(self._connection, stage, window, term=self._term)
            return done

        done = await self._unless_locked(stage.model, pick_some, Pass([], cursor))
        self._cursors[stage.name] = done.cursor
        pace.count(len(done.jobs))
        if done.jobs:
            failpoint("dispatch.after")
        share = math.ceil(len(done.jobs) / self._capacity[stage.name].workers)
        size = max(1, min(self._d.batch_size, share))
        for start in range(0, len(done.jobs), size):
            if not await self._publish(stage, done.jobs[start : start + size]):
                await self._take_back(stage, done.jobs[start:])
                return start
        return len(done.jobs)

    async def _publish(self, stage: Stage, batch: Sequence[Picked]) -> bool:
        try:
            failpoint("publish.before")
            await self._d.road.publish(stage, batch)
            failpoint("publish.after")
        except Exception as error:  # noqa: BLE001 - whatever the road's library raises: the road is closed
            self._road_is_open = False
            log.warning("publish_failed", stage=stage.name, error=describe(error))
        return self._road_is_open

    async def _take_back(self, stage: Stage, jobs: Sequence[Picked]) -> None:
        """Take back the tickets of what was not published; trying each batch would stall the leader."""
        tickets = [(job.id, job.version) for job in jobs]
        take_back = partial(unmark_exactly, self._connection, stage.model, tickets, term=self._term)
        await self._unless_locked(stage.model, take_back, None)

    async def _look_after_road(self) -> int:
        """Take back the tickets that the road lost: all of them if it lost its data, else those long unclaimed."""
        taken_back = 0
        try:
            lost = await self._d.road.lost_everything()
            self._road_is_open = True
        except Exception as error:  # noqa: BLE001 - as above
            if self._road_is_open:
                log.warning("road_closed", error=describe(error))
            self._road_is_open = False
            return 0
        for stage in self._d.registry.values():
            capacity = self._capacity.get(stage.name)
            age = timedelta() if lost or (capacity and capacity.paused) else await self._patience(stage)
            take_back = partial(unmark, self._connection, stage, older_than=age, term=self._term)
            count = await self._unless_locked(stage.model, take_back, 0)
            if count:
                log.warning("dispatched_again", stage=stage.name, jobs=count, road_lost_everything=lost)
            taken_back += count
        return taken_back

    async def _patience(self, stage: Stage) -> timedelta:
        """Wait longer for a job whose message may still lie in the queue: its worker is just busy."""
        with suppress(Exception):
            if not await self._d.road.is_empty(stage.queue):
                return 6 * self._d.redispatch
        return self._d.redispatch

    async def _rescue(self) -> int:
        rescued = 0
        led_for = timedelta(seconds=time.monotonic() - self._since)
        for stage in self._d.registry.values():
            failpoint("rescue.before")
            free = partial(rescue_expired, self._connection, stage, led_for=led_for, term=self._term)
            count = await self._unless_locked(stage.model, free, 0)
            if count:
                failpoint("rescue.after")
                log.warning("rescued", stage=stage.name, jobs=count)
            rescued += count
        return rescued
