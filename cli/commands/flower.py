"""``gristmill flower``: run this role in this process until SIGTERM."""

import asyncio

from cli.readiness import wait_for_redis
from cli.role import role_settings
from cli.server_urls import required_url
from workers.runtime.handler.registry import discover
from workers.transport.flower import run_flower


def flower() -> int:
    """Show jobs and workers in Flower."""
    settings = role_settings()
    redis_url = required_url(settings, "redis_url")
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
