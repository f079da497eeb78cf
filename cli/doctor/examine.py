"""Make all checks, in the order in which a person would."""

from cli.doctor.check import Check
from cli.doctor.servers import check_postgres, check_redis_server
from cli.running_system import find_data_dir
from cli.server_urls import find_server_urls
from config.settings import Settings
from workers.runtime.refusals import Failed


async def run_checks(settings: Settings, *, quick: bool) -> list[Check]:
    """Make every check, or only the ``quick`` ones: Postgres, its schema, Redis and its eviction policy."""
    checks: list[Check] = []
    if not quick:
        # Imported here: the quick check runs every few seconds and must load no handler.
        from cli.doctor import machine

        checks += machine.check_machine(settings.data_dir)
    try:
        urls = find_server_urls(settings)
    except Failed as error:
        return [*checks, Check("servers", "failed", "no address known", str(error))]
    checks += [check async for check in check_postgres(urls.database_url, quick=quick)]
    if not quick:
        from cli.doctor.provider import check_provider

        is_readable = not any(check.state == "failed" for check in checks if check.name in {"Postgres", "schema"})
        checks += await check_provider(settings, urls.database_url if is_readable else None)
        if is_readable:
            from cli.doctor.rights import check_passwords
            from cli.doctor.schedules import check_schedules

            checks += [check async for check in check_passwords(urls.database_url, find_data_dir(settings))]
            checks.append(await check_schedules(urls.database_url))
    return checks + [check async for check in check_redis_server(urls.redis_url, quick=quick)]
