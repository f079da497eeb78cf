"""Beat's connection when something in between acknowledges every byte and forwards none."""

import asyncio

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from tests.conftest import sqlalchemy_url
from tests.support.fakes.wire import wire_to
from workers.transport.connection_watch import ConnectionWatch


async def test_a_silent_connection_is_shut_down_and_replaced(database_url):
    """If the connection falls silent before or during a look, that look ends and the next one gets a new connection."""
    async with wire_to(database_url) as (url, wire):
        engine = create_engine(sqlalchemy_url(url), pool_size=1, pool_pre_ping=True)
        watch = ConnectionWatch(engine)

        def look(between=lambda: None):
            with watch.shut_down_after(2.0), Session(engine) as session:
                session.execute(text("SELECT 1"))
                between()
                return session.scalar(text("SELECT 2"))

        assert await asyncio.to_thread(look) == 2
        wire.fall_silent()
        assert await asyncio.wait_for(asyncio.to_thread(look), 20) == 2
        with pytest.raises(OperationalError):
            await asyncio.wait_for(asyncio.to_thread(look, wire.fall_silent), 20)
        assert await asyncio.wait_for(asyncio.to_thread(look), 20) == 2
        engine.dispose()
