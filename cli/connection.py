"""A command's connections to Postgres. Each names the person who ran the command."""

import asyncio
import getpass
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from cli.server_urls import find_server_urls
from config.settings import load
from workers.runtime.actor import Actor
from workers.runtime.database import Database, Raw

T = TypeVar("T")


def person_name() -> str:
    """Return the name of this person in ``runtime.transitions``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a name
        user = "unknown"
    return f"cli:{re.sub(r'[^A-Za-z0-9._@-]', '_', user)}"


def actor(reason: str | None = None) -> Actor:
    """Return who runs this command, on which host, and why. The history of a change shows it."""
    return Actor(changed_by=person_name(), change_reason=reason, context={"host": socket.gethostname()})


@asynccontextmanager
async def open_database(database_url: str) -> AsyncIterator[Database]:
    """Yield the connection pools of one command."""
    database = Database(database_url, changed_by=person_name(), pool_size=1)
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def open_connection(database_url: str) -> AsyncIterator[Raw]:
    """Yield one autocommitting connection with the default planner settings, which reads of whole tables need."""
    connection = await Database(database_url, changed_by=person_name()).listen()
    try:
        yield connection
    finally:
        await connection.close()


def in_connection(function: Callable[[Raw], Awaitable[T]]) -> T:
    """Run ``function`` on one connection to the database that this command uses; return its result."""
    database_url = find_server_urls(load()).database_url

    async def run() -> T:
        async with open_connection(database_url) as connection:
            return await function(connection)

    return asyncio.run(run())
