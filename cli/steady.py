"""Look at a database again and again, over a restart of it: the connection that goes is opened anew."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Self, TypeVar

import psycopg

from cli.output import remark
from workers.runtime.database import Database, Raw

T = TypeVar("T")

PATIENCE_SECONDS = 300.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 2.0
# Shutdown, crash, starting up, too many connections, and every loss of a connection that Postgres could tell of.
_PASSING = ("57P01", "57P02", "57P03", "53300")


class SteadyConnection:
    """An autocommitting connection that outlives a restart of Postgres. What it asks may be asked twice."""

    def __init__(
        self,
        database_url: str,
        *,
        changed_by: str,
        tell: Callable[[str], None] = remark,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._database_url = database_url
        self._changed_by = changed_by
        self._tell = tell
        self._patience = patience
        self._connection: Raw | None = None

    async def __aenter__(self) -> Self:
        """Connect. A server that does not answer now is told at once: nothing is followed yet."""
        self._connection = await self._connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def ask(self, question: Callable[[Raw], Awaitable[T]]) -> T:
        """Return the answer to ``question``; ask again while Postgres is away, and say that once.

        Raises the first error after the patience has run out.
        """
        loop = asyncio.get_running_loop()
        away: Exception | None = None
        since, pause = loop.time(), _FIRST_PAUSE_SECONDS
        while True:
            try:
                if self._connection is None:
                    self._connection = await self._connect()
                answer = await question(self._connection)
            except psycopg.Error as error:
                if not is_passing(error):
                    raise
                if away is None:
                    away, since = error, loop.time()
                    self._tell("Postgres cannot be reached; waiting for it to come back")
                await self._close()
                if loop.time() - since > self._patience:
                    raise away from None
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
            else:
                if away is not None:
                    self._tell("Postgres is back")
                return answer

    async def _connect(self) -> Raw:
        return await Database(self._database_url, changed_by=self._changed_by).listen()

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error, OSError):
                await connection.close()


def is_passing(error: psycopg.Error) -> bool:
    """Tell whether ``error`` says that the server is away, and not that it refused."""
    if isinstance(error, psycopg.InterfaceError):  # the connection is closed
        return True
    if not isinstance(error, psycopg.OperationalError):
        return False
    return error.sqlstate is None or error.sqlstate in _PASSING or error.sqlstate.startswith("08")


@asynccontextmanager
async def steady(database_url: str, *, patience: float = PATIENCE_SECONDS) -> AsyncIterator[SteadyConnection]:
    """Yield a connection for following, signed with who runs this command."""
    from cli.connection import who

    async with SteadyConnection(database_url, changed_by=who(), patience=patience) as connection:
        yield connection
