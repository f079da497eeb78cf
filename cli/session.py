"""A command's transactions with the database that it talks to."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cli.addresses import addresses
from cli.connection import opened
from config.settings import load
from workers.runtime.database import Database, Transaction

T = TypeVar("T")


def in_session(question: Callable[[Transaction], Awaitable[T]], *, database_url: str | None = None) -> T:
    """Return the answer to ``question``, put in one transaction to the database that this command talks to.

    That is the one at ``database_url``, where a command has looked it up already.
    """

    async def run(database: Database) -> T:
        async with database.session() as session:
            return await question(session)

    return in_database(run, database_url=database_url)


def in_database(question: Callable[[Database], Awaitable[T]], *, database_url: str | None = None) -> T:
    """Return the answer to ``question``, put to the database that this command talks to, in transactions of its own."""

    async def run() -> T:
        async with opened(database_url or addresses(load()).database_url) as database:
            return await question(database)

    return asyncio.run(run())
