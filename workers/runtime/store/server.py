"""What a server of Postgres says of itself. Light: no SQLAlchemy, for the check that runs every few seconds."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

# Where the position of gristmill's own history stands, and of each domain that another package brings.
VERSION_TABLE = "alembic_version"
VERSION_TABLES = f"""
    SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
       AND (relname = '{VERSION_TABLE}' OR relname LIKE '{VERSION_TABLE.replace("_", "!_")}!_%' ESCAPE '!')"""


def versions_statement(tables: Sequence[str]) -> sql.Composed:
    """Return what reads the revisions of ``tables``, as the domain's name ("": gristmill itself) and the revision."""
    return sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {}::text, version_num::text FROM {}").format(
            sql.Literal(table.removeprefix(VERSION_TABLE).removeprefix("_")), sql.Identifier("public", table)
        )
        for table in tables
    )


async def revisions(conn: psycopg.AsyncConnection[Any]) -> dict[str, str]:
    """Return the revision of the database's schema, under "", and those of domains by name; none before the first."""
    tables = [table for (table,) in await (await conn.execute(VERSION_TABLES)).fetchall()]
    return dict(await (await conn.execute(versions_statement(tables))).fetchall()) if tables else {}


async def clock(conn: psycopg.AsyncConnection[Any]) -> datetime:
    """Return the time of the server's clock at this moment."""
    row = await (await conn.execute("SELECT clock_timestamp()")).fetchone()
    assert row is not None
    now: datetime = row[0]
    return now
