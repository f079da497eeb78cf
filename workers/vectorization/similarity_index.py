"""Make the index for vectors of one length. A migration makes the one for the offline embedder."""

from workers.runtime.database import Database
from workers.runtime.refusals import Failed


async def make_index(database: Database, dimensions: int) -> str:
    """Build the index without blocking writers; return a line about the result. An unfinished index is built again."""
    conn = await database.listen()
    try:
        cursor = await conn.execute("SELECT operations.embedding_index(%s, true)", [dimensions])
        [statement] = await cursor.fetchone() or [None]
        if statement is None:
            raise Failed("this database has no extension vector: similarity search is exact and needs no index")
        name = f"ix_data_records_embedding_{dimensions}"
        cursor = await conn.execute(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [f"operations.{name}"]
        )
        state = await cursor.fetchone()
        if state == (True,):
            return f"{name} exists already"
        # No timeout: another long transaction could end the build after hours, and leave an unfinished index.
        await conn.execute("SET lock_timeout = 0")
        if state is not None:  # an interrupted build leaves an unused index
            await conn.execute(f"DROP INDEX CONCURRENTLY operations.{name}")
        await conn.execute(statement)
    finally:
        await conn.close()
    return f"{name} is made"
