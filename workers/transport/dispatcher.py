"""The dispatcher role: the kernel's dispatcher, publishing with Celery."""

import asyncio
import signal
from collections.abc import Callable

from redis.asyncio import Redis

from workers.runtime.database import Database
from workers.runtime.dispatch.dispatcher import Dispatcher
from workers.runtime.handler.registry import Registry
from workers.transport.app import create_app
from workers.transport.events import EventStream
from workers.transport.follower import Follower
from workers.transport.loop import reduce_garbage_collection
from workers.transport.names import process_name
from workers.transport.road import CeleryRoad


def run_dispatcher(
    registry: Registry,
    *,
    database_url: str,
    redis_url: str,
    batch_size: int,
    poll_seconds: float,
    redispatch_seconds: float,
) -> int:
    """Run one dispatcher until SIGTERM or SIGINT; return its exit code."""
    name = process_name("dispatcher")
    app = create_app(redis_url, registry)
    events = EventStream(app, name, registry)

    async def main() -> None:
        database = Database(database_url, changed_by=f"dispatcher:{name}", pool_size=1)
        road = CeleryRoad(app, redis_url)
        dispatcher = Dispatcher(
            database,
            registry,
            road,
            name=name,
            batch_size=batch_size,
            poll_seconds=poll_seconds,
            redispatch_seconds=redispatch_seconds,
        )
        call_on_signals(dispatcher.stop)
        following = asyncio.create_task(Follower(database, registry, events).run(), name="follower")
        try:
            await dispatcher.run()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await road.close()
            await database.close()

    events.start()
    reduce_garbage_collection()
    try:
        asyncio.run(main())
    finally:
        events.stop()
    return 0


def call_on_signals(stop: Callable[[], None]) -> None:
    """Call ``stop`` on the running loop at SIGTERM and SIGINT."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


async def eviction_policy(redis_url: str) -> str | None:
    """Return Redis's ``maxmemory-policy``, or None if the server does not report it."""
    redis = Redis.from_url(redis_url, socket_timeout=3, socket_connect_timeout=3, decode_responses=True)
    try:
        answer = await redis.config_get("maxmemory-policy")
    finally:
        await redis.aclose()
    return str(answer["maxmemory-policy"]) if answer else None
