"""Checks of Postgres and Redis. Light enough for a container's health check every few seconds."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import redis
from redis.asyncio import Redis

from cli.complaints import complaint, server_trouble
from cli.doctor.check import Check, permitted, verdict
from migrations.revisions import domains, left_domains, position_of
from workers.runtime.connections import TooOldServerError, connect_async, refusal_of
from workers.runtime.operate.server import ServerHealth, clock_offset, read_revisions, server_health
from workers.runtime.refusals import Failed, Forbidden

if TYPE_CHECKING:
    from workers.runtime.database import Raw

NOEVICTION = "noeviction"
MOST_OFFSET = timedelta(seconds=5)
_ANSWER_SECONDS = 3


async def postgres(database_url: str, *, quick: bool) -> AsyncIterator[Check]:
    """Check the server, the schema and, unless ``quick``, the clock and the roles that leave rows."""
    try:
        async with await connect_async(database_url, autocommit=True) as connection:
            yield _version(server_health(connection))
            standing: dict[str, str] = {}
            [schema] = await permitted("schema", lambda: _schema(connection, standing))
            yield schema
            if schema.state != "unchecked":
                for check in _domains(standing):
                    yield check
            if not quick:
                yield await _clock(connection)
            if not quick and schema.state != "failed":
                async for check in _inside(connection):
                    yield check
    except TooOldServerError as error:
        yield Check("Postgres", "failed", str(error), "upgrade the server, or name another one in DATABASE_URL")
    except Exception as error:  # noqa: BLE001 - what is no trouble of a server is raised again
        said = server_trouble(error)
        is_forbidden = isinstance(refusal_of(error), Forbidden)  # it answers, and says its remedy
        yield Check("Postgres", "failed", said, "" if is_forbidden else "start it, or mend DATABASE_URL")


async def _inside(connection: "Raw") -> AsyncIterator[Check]:
    """Check what the rows of a migrated database tell of the roles."""
    # Imported here: they load every handler's kernel, and the quick check runs every few seconds.
    from cli.doctor import rights, roles

    looks: dict[str, Callable[[Raw], Awaitable[Check | list[Check]]]] = {
        "dispatcher": roles.dispatcher,
        "beat": roles.beat,
        "workers": roles.workers,
        "processes": partial(roles.processes, version=version("gristmill")),
        "stages": roles.stages,
        "logins": rights.logins,
        "strict mode": rights.strict_mode,
        "notices": roles.notices,
        "pgvector": _vectors,
    }
    for name, look in looks.items():
        for check in await permitted(name, partial(look, connection)):
            yield check


def _version(health: ServerHealth) -> Check:
    major, minor = health.version
    found = f"{major}.{minor} at {health.host}:{health.port}"
    return Check("Postgres", "ok", found)


async def _schema(connection: "Raw", standing: dict[str, str]) -> Check:
    """Check the schema; put the revisions of all histories, by the name of their domain, into ``standing``."""
    standing.update(await read_revisions(connection))
    if "" not in standing:
        return Check("schema", "failed", "not migrated", "run `gristmill migrate`")
    position = position_of(standing.pop(""))
    if position.known:
        found = f"at {position.current}, newest is {position.head}"
        return verdict("schema", found, well=position.usable, mend="run `gristmill migrate`")
    return Check("schema", "warning", f"at {position.current}, of a newer release", "upgrade this one soon")


def _domains(standing: Mapping[str, str]) -> list[Check]:
    """Check the tables of domains that other packages bring, and tell of those that no package brings any more."""
    try:
        return [*_installed(standing), *_left(standing)]
    except Failed as error:
        return [Check("domains", "failed", str(error), "mend or uninstall that package")]


def _installed(standing: Mapping[str, str]) -> Iterator[Check]:
    for domain in domains():
        name = f"schema of {domain.name}"
        position = position_of(standing.get(domain.name), domain)
        found = f"at {position.current}, newest is {position.head}" if position.current else "not migrated"
        if position.known:
            yield verdict(name, found, well=position.usable, mend="run `gristmill migrate`")
        else:
            found = f"at {position.current}, of a newer release"
            yield Check(name, "warning", found, f"upgrade {domain.distribution} soon")


def _left(standing: Mapping[str, str]) -> Iterator[Check]:
    for left, revision in left_domains(standing).items():
        mend = (
            f"install it again; to remove its tables, run `gristmill migrate --to {left}@base` before you uninstall it"
        )
        yield Check(f"schema of {left}", "warning", f"at {revision}, but no installed package brings it", mend)


async def _clock(connection: "Raw") -> Check:
    offset = await clock_offset(connection)
    found = f"{offset.total_seconds():+.3f} s between Postgres and this machine"
    return verdict("clock", found, well=abs(offset) <= MOST_OFFSET, mend="synchronise both clocks (NTP)")


async def _vectors(connection: "Raw") -> Check:
    """Tell whether similarity search uses pgvector; it works without it too."""
    # Imported here: it is a domain's, which the quick check does not load.
    from workers.vectorization.pgvector import installed_pgvector

    pgvector = await installed_pgvector(connection)
    if pgvector.version and pgvector.usable:
        return Check("pgvector", "ok", pgvector.version)
    found = f"{pgvector.version} is older than 0.8" if pgvector.version else "none"
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
