"""Check the servers before a role starts: refuse a server that could lose work, wait for one that is not ready yet."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

import redis
import structlog
from redis.asyncio import Redis

from cli.doctor.servers import NOEVICTION
from config.redaction import redact_text
from migrations.revisions import domains, position_of
from workers.runtime.backoff import full_jitter
from workers.runtime.connections import connect_async, refusal_of
from workers.runtime.operate.server import read_revisions
from workers.runtime.refusals import Failed, Kind

log = structlog.get_logger(__name__)

_MAX_WAIT = timedelta(seconds=10)


class _NotYetError(Exception):
    """A server is not ready yet: what is missing, and the remedy."""


async def wait_for_database(database_url: str) -> None:
    """Return when Postgres answers and its schema fits this release; raise Failed if the server is too old."""
    await _wait("Postgres", lambda: _check_database(database_url))


async def wait_for_redis(redis_url: str) -> None:
    """Return when Redis answers; raise Failed if it may evict keys, because a queue is one key."""
    await _wait("Redis", lambda: _check_redis(redis_url))


async def _wait(server: str, check: Callable[[], Awaitable[None]]) -> None:
    """Check until the server is ready, with a growing pause and jitter, so that roles do not all check at once."""
    attempt = 0
    while True:
        try:
            await check()
        except Exception as error:
            if not _is_away(error):
                raise
            attempt += 1
            log.warning(
                "start_waits", waits_for=server, attempt=attempt, error=redact_text(" ".join(str(error).split()))
            )
            pause = full_jitter(attempt, draw=random.random, base=timedelta(seconds=0.5), ceiling=_MAX_WAIT)
            await asyncio.sleep(0.1 + pause.total_seconds())
        else:
            return


def _is_away(error: Exception) -> bool:
    """Return whether a later check may succeed."""
    if isinstance(error, (_NotYetError, redis.ConnectionError, redis.TimeoutError)):
        return True
    refusal = refusal_of(error)
    return refusal is not None and refusal.kind is Kind.UNAVAILABLE


async def _check_database(database_url: str) -> None:
    async with await connect_async(database_url, autocommit=True) as connection:
        current = await read_revisions(connection)
    if problem := schema_problem(current):
        raise _NotYetError(f"{problem}: run `gristmill migrate`")
    position = position_of(current.get(""))
    if not position.known:
        log.warning("database_is_newer", revision=position.current, newest_known=position.head)


def schema_problem(current: Mapping[str, str]) -> str | None:
    """Return why the revisions of a database (of gristmill: "", and of each domain) do not fit; None if they do."""
    position = position_of(current.get(""))
    if not position.usable:
        return f"database is at {position.current or 'no revision'}, this release needs {position.head}"
    for domain in domains():
        of_domain = position_of(current.get(domain.name), domain)
        if not of_domain.usable:
            at = of_domain.current or "no revision"
            return f"domain {domain.name!r} is at {at}, its package needs {of_domain.head}"
    return None


async def _check_redis(redis_url: str) -> None:
    policy = await read_eviction_policy(redis_url)
    if policy is None:
        log.warning(
            "eviction_policy_unknown", rule=f"maxmemory-policy must be {NOEVICTION}; this server does not show it"
        )
    elif policy != NOEVICTION:
        raise Failed(
            f"Redis maxmemory-policy must be {NOEVICTION}, because an eviction loses a whole queue; got {policy!r}"
        )


async def read_eviction_policy(redis_url: str) -> str | None:
    """Return maxmemory-policy of Redis; None if the server does not show it or this user may not read it."""
    client = Redis.from_url(redis_url, socket_timeout=3, socket_connect_timeout=3, decode_responses=True)
    try:
        answer = await client.config_get("maxmemory-policy")
    except redis.ResponseError:
        return None
    finally:
        await client.aclose()
    return str(answer["maxmemory-policy"]) if answer else None
