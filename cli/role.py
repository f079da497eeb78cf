"""The start of each role: read the settings, set up logging, wait for the servers."""

import asyncio
from typing import Any

from cli.readiness import wait_for_database, wait_for_redis
from cli.server_urls import required_url
from config.logging import configure
from config.settings import Settings, load


def role_settings(**options: Any) -> Settings:
    """Return the settings, after setting up logging by them."""
    settings = load(**{name: value for name, value in options.items() if value is not None})
    configure(settings.log_format, settings.log_level)
    return settings


def ready_servers(settings: Settings) -> dict[str, str]:
    """Return the URLs when both servers answer and the schema fits this release."""
    urls = {name: required_url(settings, name) for name in ("database_url", "redis_url")}

    async def wait() -> None:
        await wait_for_redis(urls["redis_url"])
        await wait_for_database(urls["database_url"])

    asyncio.run(wait())
    return urls
