"""Version and clock of the Postgres server. Imports little, because the check runs every few seconds."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from workers.runtime.store.server import read_clock, read_revisions

__all__ = ["ServerHealth", "clock_offset", "read_revisions", "server_health"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerHealth:
    """The version and the address of a Postgres server that answers."""

    version: tuple[int, int]
    host: str
    port: int


def server_health(conn: psycopg.AsyncConnection[Any]) -> ServerHealth:
    """Return version and address of the server of ``conn``, known since the connection was opened."""
    major, minor = divmod(conn.info.server_version, 10_000)
    return ServerHealth(version=(major, minor), host=conn.info.host, port=conn.info.port)


async def clock_offset(conn: psycopg.AsyncConnection[Any]) -> timedelta:
    """Return how far the clock of Postgres is ahead of this machine's clock."""
    before = datetime.now(UTC)
    theirs = await read_clock(conn)
    after = datetime.now(UTC)
    return theirs - (before + (after - before) / 2)
