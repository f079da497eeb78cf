"""The dispatcher role: the kernel's dispatcher, publishing with Celery."""

import asyncio
import signal
from collections.abc import Callable

from workers.runtime.database import Database
from workers.runtime.dispatch.dispatcher import Dispatcher
from workers.runtime.dispatch.gates import Gates
from workers.runtime.garbage import reduce_garbage_collection
from workers.runtime.handler.registry import Registry
from workers.transport.app import create_app
from workers.transport.events import EventStream
from workers.transport.follower import Follower
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
    gates: Callable[[Database], Gates] | None = None,
) -> int:
    """Run one dispatcher until SIGTERM or SIGINT; return its exit code.

    ``gates`` makes what knows which jobs would only be refused now, on a pool of connections of its own.
    """
    name = process_name("dispatcher")
    app = create_app(redis_url, registry)
    events = EventStream(app, name, registry)

    async def main() -> None:
        database = Database(database_url, changed_by=f"dispatcher:{name}", pool_size=1)
        # Not the connections of the followers: a look at the gates must not wait for them.
        asking = Database(database_url, changed_by=f"dispatcher:{name}", pool_size=2) if gates is not None else None
        road = CeleryRoad(app, redis_url)
        dispatcher = Dispatcher(
            database,
            registry,
            road,
            name=name,
            batch_size=batch_size,
            poll_seconds=poll_seconds,
            redispatch_seconds=redispatch_seconds,
            gates=gates(asking) if gates is not None and asking is not None else None,
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
            if asking is not None:
                await asking.close()

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
