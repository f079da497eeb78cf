"""What a server of Postgres says of itself. Light: no SQLAlchemy, for the check that runs every few seconds."""

from datetime import datetime
from typing import Any

import psycopg


async def revision(conn: psycopg.AsyncConnection[Any]) -> str | None:
    """Return the revision of the database's schema; None before its first migration."""
    try:
        cursor = await conn.execute("SELECT version_num FROM public.alembic_version")
    except psycopg.errors.UndefinedTable:
        return None
    row = await cursor.fetchone()
    return row[0] if row else None


async def clock(conn: psycopg.AsyncConnection[Any]) -> datetime:
    """Return the time of the server's clock at this moment."""
    row = await (await conn.execute("SELECT clock_timestamp()")).fetchone()
    assert row is not None
    now: datetime = row[0]
    return now
