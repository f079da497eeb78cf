"""Two operators at once: one is first, and the other one's line says what is so now."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from workers.llm.operate.limits import list_limits, set_limits
from workers.llm.operate.providers import add_provider, remove_provider
from workers.llm.operate.refusals import InUse, Unknown
from workers.llm.operate.routes import add_route
from workers.llm.routing.routing import Routing
from workers.operations.keyring import Keyring
from workers.runtime.database import Database, Transaction

ROUTE = {"name": "fast", "steps": [{"provider": "local", "model": "m"}]}


@pytest.fixture
async def local(database: Database) -> None:
    """A provider."""
    given = {"name": "local", "kind": "compatible", "base_url": "http://127.0.0.1:1/v1"}
    async with database.session() as session:
        await add_provider(session, given, keyring=Keyring([]))


async def one_after_the_other(
    database: Database,
    psql: Any,
    first: Callable[[Transaction], Awaitable[object]],
    second: Callable[[Transaction], Awaitable[object]],
) -> None:
    """Do ``first``, and commit it once ``second`` waits for it; raise what the second one raises."""

    async def later() -> None:
        async with database.session() as session:
            await second(session)

    async with database.session() as session:
        await first(session)
        other = asyncio.create_task(later())
        async with asyncio.timeout(30):
            while not psql.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchall():
                assert not other.done(), "it did not wait"
                await asyncio.sleep(0.01)
    await other


@pytest.mark.usefixtures("local")
async def test_a_provider_that_gets_a_route_meanwhile_is_not_removed(database, psql):
    """Whoever removes it sees the route of the other."""
    with pytest.raises(InUse, match="provider 'local' is in use by fast"):
        await one_after_the_other(database, psql, lambda s: add_route(s, ROUTE), lambda s: remove_provider(s, "local"))


@pytest.mark.usefixtures("local")
async def test_a_provider_that_is_removed_meanwhile_gets_no_route(database, psql):
    """Whoever adds the route is told that the provider is gone."""
    with pytest.raises(Unknown, match="provider 'local' does not exist"):
        await one_after_the_other(database, psql, lambda s: remove_provider(s, "local"), lambda s: add_route(s, ROUTE))


async def test_the_same_limit_set_twice_at_once_is_one(database, psql):
    """The last one holds."""

    def limit(at_most: int) -> Callable[[Transaction], Awaitable[object]]:
        given = [{"measure": "requests", "window_seconds": 60, "at_most": at_most}]
        return lambda session: set_limits(session, given, Routing(providers={}, routes={}))

    await one_after_the_other(database, psql, limit(10), limit(20))

    async with database.session() as session:
        assert [one.at_most for one in await list_limits(session)] == [20]
