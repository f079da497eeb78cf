"""Calls to a Redis that does not answer raise before Postgres ends the leader's session."""

import asyncio
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from workers.runtime.handler.registry import Registry
from workers.runtime.store.dispatch import Picked
from workers.transport.app import create_app
from workers.transport.road import CeleryRoad

# Postgres ends the session of a silent leader after 3 s.
IN_TIME_SECONDS = 2.9


@asynccontextmanager
async def silence():
    """A server that accepts connections and never answers."""
    gone = asyncio.Event()

    async def listen(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    finally:
        gone.set()
        server.close()


async def test_calls_to_a_silent_redis_raise_while_the_leader_still_leads(registry: Registry):
    """Checks and publishing raise in time, also at the next try."""
    stage = registry["proving.plain"]
    async with silence() as url:
        app = create_app(url, registry)
        road = CeleryRoad(app, url)
        for ask in (
            road.lost_everything,
            lambda: road.publish(stage, [Picked(uuid.uuid4(), 1, datetime.now(UTC))]),
            lambda: road.is_empty(stage.queue),
        ) * 2:
            with pytest.raises(Exception, match=r"(?i)time"):
                await asyncio.wait_for(ask(), IN_TIME_SECONDS)
        await road.close()
