"""The heartbeat of a worker process, and its fence listener: which of its runs have lost their fence."""

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
from workers.runtime.backoff import reconnect_seconds
from workers.runtime.database import KERNEL_PINS, KERNEL_WAITS, Database, Raw, is_database_away, is_locked
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.errors import describe
from workers.runtime.store.claim import Ticket, find_lost_fences
from workers.runtime.store.processes import WorkerRow, beat_heart, mark_draining, remove_worker
from workers.runtime.worker.claims import Claims
from workers.runtime.worker.runs import Runs

log = structlog.get_logger(__name__)

# A notification can be lost, so the fence of every running job is checked this often, one statement per table.
FENCE_CHECK_SECONDS = 1.0
# A heartbeat is abandoned if it gets no answer within this part of a lease: two more are possible.
HEARTBEAT_ANSWER_SHARE = 1 / 3
# If a fence check gets no answer within this time, the listener opens another connection.
FENCE_ANSWER_SECONDS = 5.0


class Watch:
    """Keeps the lease of one worker, and stops its runs that lost their fence.

    Heartbeats have a connection of their own, so that they never wait for claims, outcomes or handlers.
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
        # Which provider answers this process's language model calls, if known; written with the next heartbeat.
        self.provider: Mapping[str, Any] | None = None
        self._abandoned: set[asyncio.Task[datetime]] = set()

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
                await asyncio.sleep(reconnect_seconds(attempt, draw=random.random))
            else:
                return

    async def _beat(self) -> None:
        """Renew the lease, counted from the sending of the heartbeat; raise TimeoutError without an answer in time."""
        started = time.monotonic()
        beat = asyncio.create_task(self._renew(running=len(self._runs)))
        try:
            await asyncio.wait({beat}, timeout=self._worker.lease_seconds * HEARTBEAT_ANSWER_SHARE)
        finally:
            if not beat.done():  # do not wait for it: the driver takes long to give up without an answer
                beat.cancel()
                self._abandoned.add(beat)
                beat.add_done_callback(self._on_abandoned_end)
        if not beat.done():
            self._database.replace_connections()
            raise TimeoutError("no answer to a heartbeat")
        self._runs.clock_offset = beat.result() - datetime.now(UTC)
        self._claims.renew(until=started + self._worker.lease_seconds)

    async def _renew(self, *, running: int) -> datetime:
        # The connection is taken out while it is in use. If a heartbeat fails, the next one opens another.
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

    def _on_abandoned_end(self, beat: asyncio.Task[datetime]) -> None:
        self._abandoned.discard(beat)
        if not beat.cancelled():
            beat.exception()  # mark it as retrieved

    async def keep_lease(self) -> None:
        """Send heartbeats for ever; repeat a failed one soon, before the lease runs out."""
        pause = self._heartbeat_seconds
        while True:
            await asyncio.sleep(pause)
            pause = self._heartbeat_seconds
            try:
                await self._beat()
            except Exception as error:  # noqa: BLE001 - heartbeats must go on
                log.warning("heartbeat_failed", error=describe(error))
                pause = random.random() * min(1.0, self._heartbeat_seconds)  # noqa: S311 - jitter, not a secret

    async def watch_fences(self) -> None:
        """Stop the runs of jobs that somebody else moved on.

        Postgres notifies at once. All fences are also checked every second.
        """
        while True:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 - the next check finds what was missed
                log.warning("fence_watch_interrupted", error=describe(error))
                await asyncio.sleep(0.5 + random.random())  # noqa: S311

    async def _listen(self) -> None:
        """Check fences on the connection that listens, so that a broken connection is noticed."""
        connection = await self._database.listen(settings=f"{KERNEL_PINS} {KERNEL_WAITS}")
        try:
            async with asyncio.timeout(FENCE_ANSWER_SECONDS):
                await connection.execute("LISTEN gristmill_fence")
            await self._check(connection)  # for notifications sent before it listened
            checked_at = time.monotonic()
            while True:
                notices = connection.notifies(timeout=FENCE_CHECK_SECONDS, stop_after=1)
                for_us = [notice.payload.startswith(str(self._worker.id)) async for notice in notices]
                # A notification is only a reason to check: the job may have been claimed here again since.
                if any(for_us) or time.monotonic() - checked_at >= FENCE_CHECK_SECONDS:
                    await self._check(connection)
                    checked_at = time.monotonic()
        finally:
            with suppress(Exception):
                await connection.close()

    async def _check(self, connection: Raw) -> None:
        runs: dict[type[Job], list[Ticket]] = defaultdict(list)
        for running in self._runs:
            runs[running.stage.model].append((running.job.id, running.job.version))
        for model, tickets in runs.items():
            try:
                async with asyncio.timeout(FENCE_ANSWER_SECONDS):
                    lost = await find_lost_fences(connection, model, tickets)
            except Exception as error:
                if not is_locked(error):  # a locked table must not keep the others from being checked
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

    async def remove_row(self) -> None:
        """Remove the worker's row. The worker must hold no claim."""
        if self._abandoned:  # a late heartbeat would write the row again
            await asyncio.wait(self._abandoned, timeout=1)
        with suppress(Exception):  # maintenance deletes a row that is left behind
            async with asyncio.timeout(1), self._database.kernel() as conn:
                await remove_worker(conn, self._worker.id)

    async def close(self) -> None:
        """Close the connection of the heartbeats."""
        conn, self._connection = self._connection, None
        if conn is not None:
            with suppress(Exception):
                await conn.close()
