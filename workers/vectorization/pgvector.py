"""Whether this database has the extension that similarity search is fast with; search works without it too."""

from dataclasses import dataclass

from workers.runtime.database import Raw


@dataclass(frozen=True, slots=True)
class Pgvector:
    """The version of the extension vector, None where there is none, and whether it is new enough for us."""

    version: str | None
    usable: bool


async def installed_pgvector(conn: Raw) -> Pgvector:
    """Return what of pgvector this database has."""
    cursor = await conn.execute(
        "SELECT (SELECT extversion FROM pg_extension WHERE extname = 'vector'),"
        " operations.pgvector_schema() IS NOT NULL"
    )
    row = await cursor.fetchone()
    return Pgvector(*row) if row else Pgvector(None, usable=False)
