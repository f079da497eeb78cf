"""Whether this gateway can serve: the checks behind ``/readyz``."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from workers.runtime.database import Database, Raw
from workers.runtime.operate.health import LEADER_SILENT_AFTER, read_leader_silence
from workers.runtime.operate.listening import NotificationListener
from workers.runtime.operate.server import read_revisions

log = structlog.get_logger(__name__)

CHECK_SECONDS = 3.0
# Probes of several balancers share one look.
MAX_AGE_SECONDS = 1.0

Name = Literal["postgres", "redis", "migrations", "dispatcher", "process"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check: what is wrong, and the remedy; None if nothing is."""

    name: Name
    problem: str | None = None
    remedy: str | None = None


class Health:
    """Checks what this gateway needs, at most once a second."""

    def __init__(
        self,
        database: Database,
        redis_url: str,
        *,
        check_schema: Callable[[Mapping[str, str]], str | None],
        events: NotificationListener,
        stopping: asyncio.Event,
    ) -> None:
        self._database = database
        self._check_revisions = check_schema
        self._events = events
        self._stopping = stopping
        self._redis: Redis = Redis.from_url(
            redis_url,
            socket_timeout=CHECK_SECONDS,
            socket_connect_timeout=CHECK_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._checks: list[Check] = []
        self._checked_at = float("-inf")
        self._lock = asyncio.Lock()

    async def close(self) -> None:
        await self._redis.aclose()

    async def check(self) -> list[Check]:
        """Return every check, as it was at most a second ago."""
        if self._stopping.is_set():
            return [Check(name="process", problem="is stopping", remedy="use another gateway")]
        if self._events.failure is not None:
            return [Check(name="process", problem="follows no jobs any more", remedy="restart this gateway")]
        async with self._lock:
            if time.monotonic() - self._checked_at > MAX_AGE_SECONDS:
                redis, postgres = await asyncio.gather(self._check_redis(), self._check_postgres())
                self._checks, self._checked_at = [*postgres, redis], time.monotonic()
        return self._checks

    async def _check_redis(self) -> Check:
        failed = await _failure(self._redis.ping)
        remedy = "start Redis or correct REDIS_URL; jobs are accepted, but not dispatched, until it answers"
        return Check(name="redis", problem=failed and "does not answer", remedy=failed and remedy)

    async def _check_postgres(self) -> list[Check]:
        found: list[Check] = []

        async def look() -> None:
            async with self._database.kernel() as conn:
                schema = await self._check_schema(conn)
                found.extend([Check(name="postgres"), schema])
                if not schema.problem:  # else the dispatcher's table may not exist
                    found.append(await _check_dispatcher(conn))

        if await _failure(look):
            remedy = "start Postgres or correct DATABASE_URL; `gristmill doctor` says more"
            return [Check(name="postgres", problem="does not answer", remedy=remedy)]
        return found

    async def _check_schema(self, conn: Raw) -> Check:
        problem = self._check_revisions(await read_revisions(conn))
        return Check(
            name="migrations",
            problem=problem and f"must fit this release: {problem}",
            remedy=problem and "run `gristmill migrate`",
        )


async def _check_dispatcher(conn: Raw) -> Check:
    silence = await read_leader_silence(conn)
    if silence is not None and silence <= LEADER_SILENT_AFTER:
        return Check(name="dispatcher")
    seen = "none was seen" if silence is None else f"the last one was seen {silence.total_seconds():.0f} s ago"
    return Check(
        name="dispatcher",
        problem=f"must have a leader: {seen}",
        remedy="start `gristmill dispatcher`; jobs are accepted, but not dispatched, until one leads",
    )


async def _failure(check: Callable[[], Awaitable[object]]) -> str | None:
    """Return the reason why ``check`` failed, or None. The reason may hold addresses: it is for the log only."""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except Exception as error:  # noqa: BLE001 - whatever it is, the check is red
        log.warning("not_ready", error=f"{type(error).__name__}: {error}")
        return str(error) or type(error).__name__
    return None
