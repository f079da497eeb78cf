"""Checks of Postgres and Redis. Light enough for a container's health check every few seconds."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

import psycopg
import redis
from redis.asyncio import Redis

from cli.complaints import complaint
from cli.doctor.check import Check, verdict
from migrations.revisions import CURRENT, position_of
from workers.runtime.connections import connect_async

OLDEST_POSTGRES = 18
NOEVICTION = "noeviction"
MOST_OFFSET = timedelta(seconds=5)
_PGVECTOR = """
    SELECT (SELECT extversion FROM pg_extension WHERE extname = 'vector'), operations.pgvector_schema() IS NOT NULL"""
_ANSWER_SECONDS = 3

Connection = psycopg.AsyncConnection[Any]


async def postgres(database_url: str, *, quick: bool) -> AsyncIterator[Check]:
    """Check the server, the schema and, unless ``quick``, the clock and the roles that leave rows."""
    try:
        async with await connect_async(database_url, autocommit=True) as connection:
            yield _version(connection)
            schema = await _schema(connection)
            yield schema
            if not quick:
                yield await _clock(connection)
            if not quick and schema.state != "failed":
                from cli.doctor import roles

                yield await roles.dispatcher(connection)
                yield await roles.beat(connection)
                yield await roles.workers(connection)
                for check in await roles.processes(connection, version=version("gristmill")):
                    yield check
                yield await roles.stages(connection)
                from cli.doctor.rights import logins, strict_mode

                yield await logins(connection)
                yield await strict_mode(connection)
                yield await _vectors(connection)
    except (psycopg.Error, OSError) as error:
        yield Check("Postgres", "failed", complaint(error)[0], "start it, or mend DATABASE_URL")


def _version(connection: Connection) -> Check:
    major, minor = divmod(connection.info.server_version, 10_000)
    found = f"{major}.{minor} at {connection.info.host}:{connection.info.port}"
    mend = f"Gristmill needs PostgreSQL {OLDEST_POSTGRES} or newer"
    return verdict("Postgres", found, well=major >= OLDEST_POSTGRES, mend=mend)


async def _schema(connection: Connection) -> Check:
    try:
        row = await (await connection.execute(CURRENT)).fetchone()
    except psycopg.errors.UndefinedTable:
        return Check("schema", "failed", "not migrated", "run `gristmill migrate`")
    position = position_of(row[0] if row else None)
    if position.known:
        found = f"at {position.current or 'base'}, newest is {position.head}"
        return verdict("schema", found, well=position.usable, mend="run `gristmill migrate`")
    return Check("schema", "warning", f"at {position.current}, of a newer release", "upgrade this one soon")


async def _clock(connection: Connection) -> Check:
    before = datetime.now(UTC)
    row = await (await connection.execute("SELECT clock_timestamp()")).fetchone()
    after = datetime.now(UTC)
    offset = row[0] - (before + (after - before) / 2) if row else timedelta()
    found = f"{offset.total_seconds():+.3f} s between Postgres and this machine"
    return verdict("clock", found, well=abs(offset) <= MOST_OFFSET, mend="synchronise both clocks (NTP)")


async def _vectors(connection: Connection) -> Check:
    """Tell how similarity search finds its way; it works without pgvector too."""
    row = await (await connection.execute(_PGVECTOR)).fetchone()
    installed, usable = row or (None, False)
    if installed and usable:
        return Check("pgvector", "ok", installed)
    found = f"{installed} is older than 0.8" if installed else "none"
    mend = "`CREATE EXTENSION vector` or `ALTER EXTENSION vector UPDATE`, then `gristmill records index 384`"
    return Check("pgvector", "warning", f"{found}: similarity search compares with every record", mend)


async def valkey(redis_url: str | None, *, quick: bool) -> AsyncIterator[Check]:
    """Check Redis, or Valkey, its eviction policy and, unless ``quick``, say what it keeps."""
    if redis_url is None:
        yield Check("Redis", "failed", "no address known", "set REDIS_URL")
        return
    client = Redis.from_url(
        redis_url, socket_timeout=_ANSWER_SECONDS, socket_connect_timeout=_ANSWER_SECONDS, decode_responses=True
    )
    try:
        async with client:
            server = await client.info("server")
            number = server.get("valkey_version") or server.get("redis_version")
            yield Check("Redis", "ok", f"{'Valkey' if 'valkey_version' in server else 'Redis'} {number} answers")
            yield await _eviction(client)
            if not quick:
                kept = (await client.info("persistence")).get("aof_enabled")
                note = "keeps its data on disk" if kept else "keeps nothing on disk"
                yield Check("persistence", "ok", f"{note}; no job depends on it, Postgres has them all")
    except (redis.RedisError, OSError) as error:
        yield Check("Redis", "failed", complaint(error)[0], "start it, or mend REDIS_URL")


async def _eviction(client: "Redis") -> Check:
    try:
        answer = await client.config_get("maxmemory-policy")
    except redis.ResponseError:
        answer = {}
    if not answer:
        return Check("eviction", "warning", "the server does not tell", f"make sure maxmemory-policy is {NOEVICTION}")
    policy = answer["maxmemory-policy"]
    mend = f"set maxmemory-policy {NOEVICTION}: a queue is one key, evicting it loses it whole"
    return verdict("eviction", f"maxmemory-policy {policy}", well=policy == NOEVICTION, mend=mend)
