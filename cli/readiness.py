"""What a role asks of its servers before it starts: refuse what would lose work, wait for what will come."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta

import redis
import structlog

from cli.doctor.servers import NOEVICTION
from config.redaction import redact_text
from migrations.revisions import domains, position_of
from workers.runtime.backoff import full_jitter
from workers.runtime.connections import connect_async, refusal_of
from workers.runtime.operate.server import read_revisions
from workers.runtime.refusals import Failed, Kind
from workers.transport.dispatcher import eviction_policy

log = structlog.get_logger(__name__)

_LONGEST_WAIT = timedelta(seconds=10)


class _NotYetError(Exception):
    """What is missing, and what would mend it."""


async def wait_for_database(database_url: str) -> None:
    """Return when Postgres answers and its schema serves this release; raise Failed if it is too old a server."""
    await _wait("Postgres", lambda: _look_at_database(database_url))


async def wait_for_redis(redis_url: str) -> None:
    """Return when Redis answers; raise Failed if it may evict, for a queue is one key."""
    await _wait("Redis", lambda: _look_at_redis(redis_url))


async def _wait(server: str, look: Callable[[], Awaitable[None]]) -> None:
    """Look until it is there, seldom enough to be no burden and with jitter, so that roles do not come all at once."""
    attempt = 0
    while True:
        try:
            await look()
        except Exception as error:
            if not _is_away(error):
                raise
            attempt += 1
            log.warning(
                "start_waits", waits_for=server, attempt=attempt, error=redact_text(" ".join(str(error).split()))
            )
            pause = full_jitter(attempt, draw=random.random, base=timedelta(seconds=0.5), ceiling=_LONGEST_WAIT)
            await asyncio.sleep(0.1 + pause.total_seconds())
        else:
            return


def _is_away(error: Exception) -> bool:
    """Tell whether a later look may find the server well."""
    if isinstance(error, (_NotYetError, redis.ConnectionError, redis.TimeoutError)):
        return True
    refusal = refusal_of(error)
    return refusal is not None and refusal.kind is Kind.UNAVAILABLE


async def _look_at_database(database_url: str) -> None:
    async with await connect_async(database_url, autocommit=True) as connection:
        standing = await read_revisions(connection)
    position = position_of(standing.get(""))
    if not position.usable:
        at = position.current or "no revision"
        raise _NotYetError(f"database is at {at}, this release needs {position.head}: run `gristmill migrate`")
    if not position.known:
        log.warning("database_is_newer", revision=position.current, newest_known=position.head)
    for domain in domains():
        of_domain = position_of(standing.get(domain.name), domain)
        if not of_domain.usable:
            at = of_domain.current or "no revision"
            raise _NotYetError(
                f"domain {domain.name!r} is at {at}, its package needs {of_domain.head}: run `gristmill migrate`"
            )


async def _look_at_redis(redis_url: str) -> None:
    policy = await told_policy(redis_url)
    if policy is None:
        log.warning("eviction_policy_unknown", rule=f"maxmemory-policy must be {NOEVICTION}; this server does not tell")
    elif policy != NOEVICTION:
        raise Failed(f"Redis maxmemory-policy must be {NOEVICTION}, as evicting a queue loses it whole; got {policy!r}")


async def told_policy(redis_url: str) -> str | None:
    """Return Redis's maxmemory-policy, or None where the server does not tell or this user may not ask."""
    try:
        return await eviction_policy(redis_url)
    except redis.ResponseError:
        return None
