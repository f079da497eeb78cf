"""A worker process shows that it lives, and learns which of its runs have lost their fence."""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import structlog

from models.lifecycle import Job
from workers.runtime.backoff import soon
from workers.runtime.database import KERNEL_PINS, KERNEL_WAITS, Database, Raw, is_database_away, is_locked
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.errors import describe
from workers.runtime.store.claim import Ticket, find_lost_fences
from workers.runtime.store.processes import WorkerRow, beat_heart, mark_draining, remove_worker
from workers.runtime.worker.claims import Claims
from workers.runtime.worker.runs import Runs

log = structlog.get_logger(__name__)

# A notification can be lost: every running job's fence is looked up this often, in one statement per table.
FENCE_CHECK_SECONDS = 1.0
# A heartbeat that gets no answer for this part of a lease is given up: there is time for two more.
PATIENCE = 1 / 3
# A connection that has not answered within this time which fences are lost is replaced by another.
LISTEN_SECONDS = 5.0


class Watch:
    """Keeps one worker's lease, and stops those of its runs that lost their fence.

    Heartbeats have a connection of their own: they must not wait for one that claims, outcomes or handlers have taken.
    """

    def __init__(
        self, database: Database, worker: WorkerRow, *, runs: Runs, claims: Claims, heartbeat_seconds: float
    ) -> None:
        self._database = database
        self._worker = worker
        self._runs = runs
        self._claims = claims
        self._heartbeat_seconds = heartbeat_seconds
        self._connection: Raw | None = None
        # Who answers this process's language model calls, as far as it is known: shown with the next sign of life.
        self.provider: Mapping[str, Any] | None = None
        self._given_up: set[asyncio.Task[datetime]] = set()

    async def first_heartbeat(self) -> None:
        """Write the worker's row before its first claim; wait as long as Postgres is away."""
        attempt = 0
        while True:
            try:
                await self._beat()
            except Exception as error:
                if not is_database_away(error):
                    raise
                attempt += 1
                log.warning("start_waits_for_database", attempt=attempt, error=describe(error))
                await asyncio.sleep(soon(attempt, draw=random.random))
            else:
                return

    async def _beat(self) -> None:
        """Renew the lease, counted from before the heartbeat is sent; raise TimeoutError without an answer in time."""
        started = time.monotonic()
        beat = asyncio.create_task(self._renew(running=len(self._runs)))
        try:
            await asyncio.wait({beat}, timeout=self._worker.lease_seconds * PATIENCE)
        finally:
            if not beat.done():  # nobody waits for it: without an answer, the driver takes long to give up
                beat.cancel()
                self._given_up.add(beat)
                beat.add_done_callback(self._forget)
        if not beat.done():
            self._database.distrust()
            raise TimeoutError("no answer to a heartbeat")
        self._runs.clock_offset = beat.result() - datetime.now(UTC)
        self._claims.renew(until=started + self._worker.lease_seconds)

    async def _renew(self, *, running: int) -> datetime:
        # The connection is taken while it is in use: if a heartbeat fails or is given up, the next one opens another.
        conn, self._connection = self._connection, None
        conn = conn or await self._database.listen()
        try:
            failpoint("heartbeat.before")
            now = await beat_heart(conn, self._worker, running=running, provider=self.provider)
            failpoint("heartbeat.after")
        except BaseException:
            with suppress(Exception):
                await conn.close()
            raise
        self._connection = conn
        return now

    def _forget(self, beat: asyncio.Task[datetime]) -> None:
        self._given_up.discard(beat)
        if not beat.cancelled():
            beat.exception()  # nobody else asks

    async def keep_lease(self) -> None:
        """Send heartbeats for ever; repeat a failed one soon, because the lease goes on to run out."""
        pause = self._heartbeat_seconds
        while True:
            await asyncio.sleep(pause)
            pause = self._heartbeat_seconds
            try:
                await self._beat()
            except Exception as error:  # noqa: BLE001 - heartbeats must go on
                log.warning("heartbeat_failed", error=describe(error))
                pause = random.random() * min(1.0, self._heartbeat_seconds)  # noqa: S311 - jitter, not a secret

    async def heed_fences(self) -> None:
        """Stop the runs of jobs that somebody else moved.

        Postgres notifies at once; fences are also looked up every second.
        """
        while True:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 - the next lookup finds what was missed
                log.warning("fence_watch_interrupted", error=describe(error))
                await asyncio.sleep(0.5 + random.random())  # noqa: S311

    async def _listen(self) -> None:
        """Look up fences on the connection that listens: a broken one is noticed as soon as anything runs."""
        connection = await self._database.listen(settings=f"{KERNEL_PINS} {KERNEL_WAITS}")
        try:
            async with asyncio.timeout(LISTEN_SECONDS):
                await connection.execute("LISTEN gristmill_fence")
            await self._check(connection)  # for notifications that came while nobody listened
            looked = time.monotonic()
            while True:
                notices = connection.notifies(timeout=FENCE_CHECK_SECONDS, stop_after=1)
                rung = [notice.payload.startswith(str(self._worker.id)) async for notice in notices]
                # A notification is only a reason to look: the job may have come back since, and run here again.
                if any(rung) or time.monotonic() - looked >= FENCE_CHECK_SECONDS:
                    await self._check(connection)
                    looked = time.monotonic()
        finally:
            with suppress(Exception):
                await connection.close()

    async def _check(self, connection: Raw) -> None:
        runs: dict[type[Job], list[Ticket]] = defaultdict(list)
        for running in self._runs:
            runs[running.stage.model].append((running.job.id, running.job.version))
        for model, tickets in runs.items():
            try:
                async with asyncio.timeout(LISTEN_SECONDS):
                    lost = await find_lost_fences(connection, model, tickets)
            except Exception as error:
                if not is_locked(error):  # a table that somebody holds must not keep the others from being looked at
                    raise
                continue
            versions = dict(tickets)
            for job_id in lost:
                self._runs.stop(job_id, "fence", version=versions[job_id])

    async def announce_drain(self) -> None:
        """Tell the dispatcher to send this worker no more jobs."""
        with suppress(Exception):  # the worker stops either way
            async with asyncio.timeout(1), self._database.kernel() as conn:
                await mark_draining(conn, self._worker.id)

    async def say_goodbye(self) -> None:
        """Remove the worker's row; it holds no claim any more."""
        if self._given_up:  # a heartbeat that arrives late would write the row again
            await asyncio.wait(self._given_up, timeout=1)
        with suppress(Exception):  # a row left behind is forgotten by maintenance
            async with asyncio.timeout(1), self._database.kernel() as conn:
                await remove_worker(conn, self._worker.id)

    async def close(self) -> None:
        """Close the connection of the heartbeats."""
        conn, self._connection = self._connection, None
        if conn is not None:
            with suppress(Exception):
                await conn.close()
