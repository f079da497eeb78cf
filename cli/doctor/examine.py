"""All checks in the order a person would make them."""

import asyncio

from cli.addresses import addresses
from cli.doctor.check import Check
from cli.doctor.servers import postgres, valkey
from cli.errors import CommandError
from config.settings import Settings


async def examine(settings: Settings, *, quick: bool) -> list[Check]:
    """Return every check; the ``quick`` ones are Postgres, its schema, Redis and its eviction policy."""
    checks: list[Check] = []
    if not quick:
        from cli.doctor import machine

        checks += [machine.python(), machine.packages(), machine.disk(settings.data_dir)]
        checks.append(await asyncio.to_thread(machine.provider, settings))
    try:
        where = addresses(settings)
    except CommandError as error:
        return [*checks, Check("servers", "failed", "no address known", str(error))]
    checks += [check async for check in postgres(where.database_url, quick=quick)]
    return checks + [check async for check in valkey(where.redis_url, quick=quick)]
