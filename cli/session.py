"""Run functions in transactions of the database that this command uses."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cli.connection import open_database
from cli.server_urls import find_server_urls
from config.settings import load
from workers.runtime.database import Database, Transaction

T = TypeVar("T")


def in_session(function: Callable[[Transaction], Awaitable[T]], *, database_url: str | None = None) -> T:
    """Run ``function`` in one transaction and return its result.

    The database is the one at ``database_url``, if given, else the one that this command uses.
    """

    async def run(database: Database) -> T:
        async with database.session() as session:
            return await function(session)

    return in_database(run, database_url=database_url)


def in_database(function: Callable[[Database], Awaitable[T]], *, database_url: str | None = None) -> T:
    """Run ``function``, which opens its own transactions, on the database that this command uses; return its result."""

    async def run() -> T:
        async with open_database(database_url or find_server_urls(load()).database_url) as database:
            return await function(database)

    return asyncio.run(run())
