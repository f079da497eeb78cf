"""Whether the server of Postgres is one that this release runs on. Light, as the check runs every few seconds."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from workers.runtime.store.server import clock, revision


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerHealth:
    """A server of Postgres that answers: its version, where it is, and the revision of its schema (None: none)."""

    version: tuple[int, int]
    host: str
    port: int
    revision: str | None


async def server_health(conn: psycopg.AsyncConnection[Any]) -> ServerHealth:
    """Return what the server behind ``conn`` is; which revision is wanted is for who knows the migrations."""
    major, minor = divmod(conn.info.server_version, 10_000)
    return ServerHealth(version=(major, minor), host=conn.info.host, port=conn.info.port, revision=await revision(conn))


async def clock_offset(conn: psycopg.AsyncConnection[Any]) -> timedelta:
    """Return by how much the clock of Postgres is ahead of this machine's."""
    before = datetime.now(UTC)
    theirs = await clock(conn)
    after = datetime.now(UTC)
    return theirs - (before + (after - before) / 2)
