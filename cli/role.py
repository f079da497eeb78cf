"""What each role does before it starts: read its settings, set up logging, wait for its servers."""

import asyncio
from typing import Any

from cli.addresses import required
from cli.readiness import wait_for_database, wait_for_redis
from config.logging import configure
from config.settings import Settings, load


def role_settings(**options: Any) -> Settings:
    """Return the settings, with logging set up by them."""
    settings = load(**{name: value for name, value in options.items() if value is not None})
    configure(settings.log_format, settings.log_level)
    return settings


def ready_servers(settings: Settings) -> dict[str, str]:
    """Return the URLs once both servers answer and the schema serves this release."""
    urls = {name: required(settings, name) for name in ("database_url", "redis_url")}

    async def wait() -> None:
        await wait_for_redis(urls["redis_url"])
        await wait_for_database(urls["database_url"])

    asyncio.run(wait())
    return urls
