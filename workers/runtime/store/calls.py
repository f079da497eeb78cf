"""What maintenance does to the ledger of model calls, whose rules are functions of the database."""

from workers.runtime.database import Raw

# So many reservations are given up by one statement.
BATCH = 1_000


async def orphan(conn: Raw) -> int:
    """Give up the reservations of runs that are over and of processes that are gone; return how many."""
    given_up, batch = 0, BATCH
    while batch == BATCH:
        cursor = await conn.execute("SELECT llm.orphan_calls(p_most => %(most)s)", {"most": BATCH})
        row = await cursor.fetchone()
        batch = row[0] if row else 0
        given_up += batch
    return given_up


async def tidy(conn: Raw) -> int:
    """Delete what no admission needs any more; return how many rows."""
    row = await (await conn.execute("SELECT llm.tidy()")).fetchone()
    return row[0] if row else 0
