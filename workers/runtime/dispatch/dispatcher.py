"""The dispatcher process. Any number run; one leads: it picks due jobs inside every limit and publishes them.

A lease in ``runtime.dispatcher``, which no service may write, makes one the leader. Each statement of the leader names
its term, so that a stalled leader changes nothing after another one has taken the lead. Postgres also disconnects a
stalled leader (``idle_session_timeout``). The caller passes in how to publish: this package knows no Celery and no
Redis.
"""

import asyncio
import random
import time
from contextlib import suppress
from datetime import timedelta

import structlog

from workers.runtime.backoff import reconnect_seconds
from workers.runtime.connections import refusal_of
from workers.runtime.database import Database, Raw, is_database_away
from workers.runtime.dispatch.gates import GateLooks, Gates
from workers.runtime.dispatch.guard import LEADER_ANSWER_SECONDS
from workers.runtime.dispatch.leader import Leader
from workers.runtime.dispatch.road import Road
from workers.runtime.dispatch.rollups import CHANNEL
from workers.runtime.handler.errors import describe
from workers.runtime.handler.registry import Registry
from workers.runtime.store.processes import LostLeadError, try_to_lead, write_limits

log = structlog.get_logger(__name__)

FOLLOW_SECONDS = 0.5
# An index gives every order that the leader's statements need. With outdated statistics the planner would sort a
# million rows instead.
LEADER_SESSION = (
    "-c idle_session_timeout=3s -c idle_in_transaction_session_timeout=3s -c lock_timeout=500ms"
    " -c enable_seqscan=off -c enable_bitmapscan=off -c enable_sort=off -c jit=off"
)
# A dispatcher that fails each time it leads waits at most this long between two tries.
MAX_PAUSE_SECONDS = 30
# If the dispatcher ran this long before a failure, earlier failures do not count.
FAILURES_FORGOTTEN_SECONDS = 60.0


class Dispatcher:
    """One dispatcher process: it follows until it can lead, then leads until its connection ends."""

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
        gates: Gates | None = None,
    ) -> None:
        """``gates`` says which jobs would only be refused now; without it, no job is kept back for that."""
        self._database = database
        self._registry = registry
        self._road = road
        self._name = name
        self._batch_size = batch_size
        self._poll_seconds = poll_seconds
        self._redispatch = timedelta(seconds=redispatch_seconds)
        self._gates = GateLooks(gates) if gates is not None else None
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Finish the current tick, then return from :meth:`run`."""
        self._stop.set()

    async def run(self) -> None:
        """Follow and lead until stopped, also when Postgres or Redis is away for any time."""
        attempt = failures = 0
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                await self._follow_then_lead()
                attempt = 0
            except Exception as error:  # noqa: BLE001 - logged and tried again: no error ends a dispatcher
                attempt += 1
                if time.monotonic() - began > FAILURES_FORGOTTEN_SECONDS:
                    failures = 0
                failures += not isinstance(error, LostLeadError) and not is_database_away(error)
                pause = 0.2 + reconnect_seconds(attempt, draw=random.random) + _pause_after(failures)
                _log_failure(error, attempt=attempt, failures=failures, pause=pause)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), pause)
        if self._gates is not None:
            await self._gates.aclose()

    async def _follow_then_lead(self) -> None:
        connection = await self._database.listen(settings=LEADER_SESSION)
        try:
            while not self._stop.is_set():
                async with asyncio.timeout(LEADER_ANSWER_SECONDS):
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
        async with asyncio.timeout(LEADER_ANSWER_SECONDS):
            await connection.execute("LISTEN gristmill_work")
            await connection.execute(f"LISTEN {CHANNEL}".encode())
            await write_limits(connection, self._registry.values())
        leader = Leader(
            connection,
            term,
            self._registry,
            self._road,
            batch_size=self._batch_size,
            poll_seconds=self._poll_seconds,
            redispatch=self._redispatch,
            gates=self._gates,
        )
        while not self._stop.is_set():
            await leader.tick()


def _pause_after(failures: int) -> float:
    """Return the pause in seconds after this many failures in a row: without it, a new lead would only fail again."""
    return float(min(2 ** (failures - 1), MAX_PAUSE_SECONDS)) if failures else 0.0


def _log_failure(error: Exception, *, attempt: int, failures: int, pause: float) -> None:
    """Log why the dispatcher follows again; add the traceback if the failure is the first one."""
    if isinstance(error, LostLeadError):
        log.warning("dispatcher_lost_lead", error=str(error))
    elif is_database_away(error):
        log.warning("dispatcher_lost_database", error=describe(error), attempt=attempt)
    else:
        refusal = refusal_of(error)
        reason = str(refusal) if refusal else describe(error)
        log.error("dispatcher_pass_failed", error=reason, again_in=round(pause, 1), exc_info=failures == 1)
