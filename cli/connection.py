"""A command's connections to Postgres, signed with who ran it."""

import asyncio
import getpass
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from cli.addresses import addresses
from config.settings import load
from workers.runtime.actor import Actor
from workers.runtime.database import Database, Raw

T = TypeVar("T")


def who() -> str:
    """Return how this person is named in ``runtime.transitions``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a name
        user = "unknown"
    return f"cli:{re.sub(r'[^A-Za-z0-9._@-]', '_', user)}"


def actor(reason: str | None = None) -> Actor:
    """Return who runs this command, on which host, and why: what the history of a change shows."""
    return Actor(changed_by=who(), change_reason=reason, context={"host": socket.gethostname()})


@asynccontextmanager
async def opened(database_url: str) -> AsyncIterator[Database]:
    """Yield the pools of one command."""
    database = Database(database_url, changed_by=who(), pool_size=1)
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def connected(database_url: str) -> AsyncIterator[Raw]:
    """Yield one autocommitting connection with an ordinary planner, as reading whole tables needs it."""
    connection = await Database(database_url, changed_by=who()).listen()
    try:
        yield connection
    finally:
        await connection.close()


def ask(question: Callable[[Raw], Awaitable[T]]) -> T:
    """Return the answer to ``question``, put to the database that this command talks to."""
    database_url = addresses(load()).database_url

    async def run() -> T:
        async with connected(database_url) as connection:
            return await question(connection)

    return asyncio.run(run())
