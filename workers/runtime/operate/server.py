"""Whether the server of Postgres is one that this release runs on. Light, as the check runs every few seconds."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from workers.runtime.store.server import read_clock, read_revisions

__all__ = ["ServerHealth", "clock_offset", "read_revisions", "server_health"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerHealth:
    """A server of Postgres that answers: its version and where it is."""

    version: tuple[int, int]
    host: str
    port: int


def server_health(conn: psycopg.AsyncConnection[Any]) -> ServerHealth:
    """Return what the server behind ``conn`` is, as it said when the connection was made."""
    major, minor = divmod(conn.info.server_version, 10_000)
    return ServerHealth(version=(major, minor), host=conn.info.host, port=conn.info.port)


async def clock_offset(conn: psycopg.AsyncConnection[Any]) -> timedelta:
    """Return by how much the clock of Postgres is ahead of this machine's."""
    before = datetime.now(UTC)
    theirs = await read_clock(conn)
    after = datetime.now(UTC)
    return theirs - (before + (after - before) / 2)
