"""Read the state of a Postgres server. This module does not import SQLAlchemy: a check uses it every few seconds."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

# The table with the revision of gristmill's own schema; each domain of another package has such a table too.
VERSION_TABLE = "alembic_version"
VERSION_TABLES = f"""
    SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
       AND (relname = '{VERSION_TABLE}' OR relname LIKE '{VERSION_TABLE.replace("_", "!_")}!_%' ESCAPE '!')"""


def versions_statement(tables: Sequence[str]) -> sql.Composed:
    """Return the statement that reads the revisions of ``tables``: the domain ("" for gristmill) and its revision."""
    return sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {}::text, version_num::text FROM {}").format(
            sql.Literal(table.removeprefix(VERSION_TABLE).removeprefix("_")), sql.Identifier("public", table)
        )
        for table in tables
    )


async def read_revisions(conn: psycopg.AsyncConnection[Any]) -> dict[str, str]:
    """Return the revision of gristmill's schema (key "") and those of domains by name; empty before the first one."""
    tables = [table for (table,) in await (await conn.execute(VERSION_TABLES)).fetchall()]
    return dict(await (await conn.execute(versions_statement(tables))).fetchall()) if tables else {}


async def read_clock(conn: psycopg.AsyncConnection[Any]) -> datetime:
    """Return the current time of the server's clock."""
    row = await (await conn.execute("SELECT clock_timestamp()")).fetchone()
    assert row is not None
    now: datetime = row[0]
    return now
