"""Checks of Postgres and Redis. Quick enough for the health check of a container every few seconds."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import redis
from redis.asyncio import Redis

from cli.doctor.check import Check, ok_or_failed, run_permitted
from cli.error_lines import error_line, server_error_line
from migrations.revisions import domains, left_domains, position_of
from workers.runtime.connections import TooOldServerError, connect_async, refusal_of
from workers.runtime.operate.server import ServerHealth, clock_offset, read_revisions, server_health
from workers.runtime.refusals import Failed, Forbidden

if TYPE_CHECKING:
    from workers.runtime.database import Raw

NOEVICTION = "noeviction"
MAX_CLOCK_OFFSET = timedelta(seconds=5)
_TIMEOUT_SECONDS = 3


async def check_postgres(database_url: str, *, quick: bool) -> AsyncIterator[Check]:
    """Check the server, the schema and, unless ``quick``, the clock and the roles that write rows."""
    try:
        async with await connect_async(database_url, autocommit=True) as connection:
            yield _version(server_health(connection))
            revision_of: dict[str, str] = {}
            [schema] = await run_permitted("schema", lambda: _schema(connection, revision_of))
            yield schema
            if schema.state != "unchecked":
                for check in _domains(revision_of):
                    yield check
            if not quick:
                yield await _clock(connection)
            if not quick and schema.state != "failed":
                async for check in _check_rows(connection):
                    yield check
    except TooOldServerError as error:
        yield Check("Postgres", "failed", str(error), "upgrade the server, or name another one in DATABASE_URL")
    except Exception as error:  # noqa: BLE001 - errors that are not of a server are raised again
        found = server_error_line(error)
        is_forbidden = isinstance(refusal_of(error), Forbidden)  # the server answers, and the line has a remedy
        yield Check("Postgres", "failed", found, "" if is_forbidden else "start it, or correct DATABASE_URL")


async def _check_rows(connection: "Raw") -> AsyncIterator[Check]:
    """Check the roles by their rows in a migrated database."""
    # Imported here: they load the handlers, and the quick check runs every few seconds.
    from cli.doctor import rights, roles

    checks: dict[str, Callable[[Raw], Awaitable[Check | list[Check]]]] = {
        "dispatcher": roles.check_dispatcher,
        "beat": roles.check_beat,
        "workers": roles.check_queues,
        "processes": partial(roles.check_processes, version=version("gristmill")),
        "stages": roles.check_stages,
        "logins": rights.check_logins,
        "strict mode": rights.check_strict_mode,
        "notices": roles.check_notices,
        "pgvector": _pgvector,
        "callbacks": _callbacks,
    }
    for name, check in checks.items():
        for result in await run_permitted(name, partial(check, connection)):
            yield result


def _version(health: ServerHealth) -> Check:
    major, minor = health.version
    found = f"{major}.{minor} at {health.host}:{health.port}"
    return Check("Postgres", "ok", found)


async def _schema(connection: "Raw", revision_of: dict[str, str]) -> Check:
    """Check the schema; put the revisions of all histories, by the name of their domain, into ``revision_of``."""
    revision_of.update(await read_revisions(connection))
    if "" not in revision_of:
        return Check("schema", "failed", "not migrated", "run `gristmill migrate`")
    position = position_of(revision_of.pop(""))
    if position.known:
        found = f"at {position.current}, newest is {position.head}"
        return ok_or_failed("schema", found, ok=position.usable, remedy="run `gristmill migrate`")
    return Check("schema", "warning", f"at {position.current}, of a newer release", "upgrade this release soon")


def _domains(revision_of: Mapping[str, str]) -> list[Check]:
    """Check the schemas of domains of other packages, and report those without an installed package."""
    try:
        return [*_installed(revision_of), *_without_package(revision_of)]
    except Failed as error:
        return [Check("domains", "failed", str(error), "repair or uninstall that package")]


def _installed(revision_of: Mapping[str, str]) -> Iterator[Check]:
    for domain in domains():
        name = f"schema of {domain.name}"
        position = position_of(revision_of.get(domain.name), domain)
        found = f"at {position.current}, newest is {position.head}" if position.current else "not migrated"
        if position.known:
            yield ok_or_failed(name, found, ok=position.usable, remedy="run `gristmill migrate`")
        else:
            found = f"at {position.current}, of a newer release"
            yield Check(name, "warning", found, f"upgrade {domain.distribution} soon")


def _without_package(revision_of: Mapping[str, str]) -> Iterator[Check]:
    for name, revision in left_domains(revision_of).items():
        remedy = (
            f"install it again; to remove its tables, run `gristmill migrate --to {name}@base` before you uninstall it"
        )
        yield Check(f"schema of {name}", "warning", f"at {revision}, but no installed package brings it", remedy)


async def _clock(connection: "Raw") -> Check:
    offset = await clock_offset(connection)
    found = f"{offset.total_seconds():+.3f} s between Postgres and this machine"
    return ok_or_failed("clock", found, ok=abs(offset) <= MAX_CLOCK_OFFSET, remedy="synchronise both clocks (NTP)")


async def _pgvector(connection: "Raw") -> Check:
    """Check whether similarity search can use pgvector. It works without it too."""
    # Imported here: it belongs to a domain, and the quick check loads none.
    from workers.vectorization.pgvector import installed_pgvector

    pgvector = await installed_pgvector(connection)
    if pgvector.version and pgvector.usable:
        return Check("pgvector", "ok", pgvector.version)
    found = f"{pgvector.version} is older than 0.8" if pgvector.version else "none"
    remedy = "`CREATE EXTENSION vector` or `ALTER EXTENSION vector UPDATE`, then `gristmill records index 384`"
    return Check("pgvector", "warning", f"{found}: similarity search compares with every record", remedy)


async def _callbacks(connection: "Raw") -> Check:
    """Warn about endpoints that failed for so long that they were disabled, and about notices without a delivery."""
    # Imported here: it belongs to a domain, and the quick check loads none.
    from workers.notifications.troubles import count_troubles

    disabled, refused = await count_troubles(connection)
    if refused:
        remedy = "mend what `problem` in runtime.notices says, then set it to null"
        return Check("callbacks", "warning", f"of {refused:,} ended jobs no callback could be made", remedy)
    if disabled:
        remedy = "`gristmill callbacks endpoints` says why; `gristmill callbacks endpoints change ID --enable` goes on"
        return Check("callbacks", "warning", f"{disabled:,} endpoints are disabled after failures", remedy)
    return Check("callbacks", "ok", "no endpoint was disabled by failures")


async def check_redis_server(redis_url: str | None, *, quick: bool) -> AsyncIterator[Check]:
    """Check Redis or Valkey, its eviction policy and, unless ``quick``, its persistence."""
    if redis_url is None:
        yield Check("Redis", "failed", "no address known", "set REDIS_URL")
        return
    client = Redis.from_url(
        redis_url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS, decode_responses=True
    )
    try:
        async with client:
            server = await client.info("server")
            number = server.get("valkey_version") or server.get("redis_version")
            yield Check("Redis", "ok", f"{'Valkey' if 'valkey_version' in server else 'Redis'} {number} answers")
            yield await _eviction(client)
            if not quick:
                is_persistent = (await client.info("persistence")).get("aof_enabled")
                note = "stores its data on disk" if is_persistent else "stores nothing on disk"
                yield Check("persistence", "ok", f"{note}; no job depends on it, because Postgres has them all")
    except (redis.RedisError, OSError) as error:
        yield Check("Redis", "failed", error_line(error)[0], "start it, or correct REDIS_URL")


async def _eviction(client: "Redis") -> Check:
    try:
        answer = await client.config_get("maxmemory-policy")
    except redis.ResponseError:
        answer = {}
    if not answer:
        return Check(
            "eviction", "warning", "the server does not show it", f"make sure that maxmemory-policy is {NOEVICTION}"
        )
    policy = answer["maxmemory-policy"]
    remedy = f"set maxmemory-policy {NOEVICTION}: a queue is one key, so an eviction loses the whole queue"
    return ok_or_failed("eviction", f"maxmemory-policy {policy}", ok=policy == NOEVICTION, remedy=remedy)
