"""Make the index of one vector length, as the migration does for the embedder that comes along."""

from cli.connection import ask
from workers.runtime.database import Raw
from workers.runtime.refusals import Failed


def make_index(dimensions: int) -> str:
    """Build the index without stopping writers and return a line about it; an unfinished one is made anew."""

    async def build(conn: Raw) -> str:
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
            return f"{name} is there already"
        # Another's transaction may outlast any patience, after hours of work: given up, it would leave half an index.
        await conn.execute("SET lock_timeout = 0")
        if state is not None:  # an interrupted build leaves its index behind, unused
            await conn.execute(f"DROP INDEX CONCURRENTLY operations.{name}")
        await conn.execute(statement)
        return f"{name} is made"

    return ask(build)
