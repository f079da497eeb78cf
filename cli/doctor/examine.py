"""All checks in the order a person would make them."""

from cli.addresses import addresses
from cli.doctor.check import Check
from cli.doctor.servers import postgres, valkey
from cli.whereabouts import data_folder
from config.settings import Settings
from workers.runtime.refusals import Failed


async def examine(settings: Settings, *, quick: bool) -> list[Check]:
    """Return every check; the ``quick`` ones are Postgres, its schema, Redis and its eviction policy."""
    checks: list[Check] = []
    if not quick:
        # Imported here: the quick check runs every few seconds, and loads no handler.
        from cli.doctor import machine

        checks += [machine.python(), machine.packages(), machine.handlers(), machine.disk(settings.data_dir)]
    try:
        where = addresses(settings)
    except Failed as error:
        return [*checks, Check("servers", "failed", "no address known", str(error))]
    checks += [check async for check in postgres(where.database_url, quick=quick)]
    if not quick:
        from cli.doctor.provider import provider

        readable = not any(check.state == "failed" for check in checks if check.name in {"Postgres", "schema"})
        checks += await provider(settings, where.database_url if readable else None)
        if readable:
            from cli.doctor.rights import passwords
            from cli.doctor.schedules import schedules

            checks += [check async for check in passwords(where.database_url, data_folder(settings))]
            checks.append(await schedules(where.database_url))
    return checks + [check async for check in valkey(where.redis_url, quick=quick)]
