"""The road to a Redis that says nothing: a leader must hear so before Postgres takes its lead."""

import asyncio
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from workers.runtime.handler.registry import Registry
from workers.runtime.store.dispatch import Picked
from workers.transport.app import create_app
from workers.transport.road import CeleryRoad

# Of the three after which Postgres ends the session of a leader that is silent.
IN_TIME_SECONDS = 2.9


@asynccontextmanager
async def silence():
    """A server that takes connections and answers nothing."""
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


async def test_silence_is_told_while_the_leader_still_leads(registry: Registry):
    """Looking and publishing both raise in time, and do so again at the next try."""
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
