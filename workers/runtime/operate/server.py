"""Whether the server of Postgres is one that this release runs on. Light, as the check runs every few seconds."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from workers.runtime.store.server import clock, revisions

OLDEST_POSTGRES = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerHealth:
    """A server of Postgres that answers: its version, where it is, and the revision of its schema (None: none).

    ``domains`` are the revisions of domains that other packages bring, by name.
    """

    version: tuple[int, int]
    host: str
    port: int
    revision: str | None
    domains: Mapping[str, str]

    @property
    def is_too_old(self) -> bool:
        """Whether this release does not run on it."""
        return self.version[0] < OLDEST_POSTGRES


async def server_health(conn: psycopg.AsyncConnection[Any]) -> ServerHealth:
    """Return what the server behind ``conn`` is; which revision is wanted is for who knows the migrations."""
    major, minor = divmod(conn.info.server_version, 10_000)
    found = await revisions(conn)
    return ServerHealth(
        version=(major, minor),
        host=conn.info.host,
        port=conn.info.port,
        revision=found.pop("", None),
        domains=found,
    )


async def clock_offset(conn: psycopg.AsyncConnection[Any]) -> timedelta:
    """Return by how much the clock of Postgres is ahead of this machine's."""
    before = datetime.now(UTC)
    theirs = await clock(conn)
    after = datetime.now(UTC)
    return theirs - (before + (after - before) / 2)
