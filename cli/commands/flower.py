"""``gristmill flower``: this role alone, in this process, until SIGTERM."""

import asyncio

from cli.addresses import required
from cli.readiness import wait_for_redis
from cli.role import role_settings
from workers.runtime.handler.registry import discover
from workers.transport.flower import run_flower


def flower() -> int:
    """Show jobs and workers in Flower."""
    settings = role_settings()
    redis_url = required(settings, "redis_url")
    registry = discover()
    asyncio.run(wait_for_redis(redis_url))
    secret = settings.flower.basic_auth
    return run_flower(
        registry,
        redis_url=redis_url,
        address=settings.flower.address,
        port=settings.flower.port,
        basic_auth=secret.get_secret_value() if secret else None,
    )
