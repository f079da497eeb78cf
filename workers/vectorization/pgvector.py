"""Find out whether this database has pgvector. With it, similarity search is fast; search works without it, too."""

from dataclasses import dataclass

from workers.runtime.database import Raw


@dataclass(frozen=True, slots=True)
class Pgvector:
    """The version of the extension ``vector``, None if it is not installed, and whether it is new enough."""

    version: str | None
    usable: bool


async def installed_pgvector(conn: Raw) -> Pgvector:
    """Return the version of pgvector in this database."""
    cursor = await conn.execute(
        "SELECT (SELECT extversion FROM pg_extension WHERE extname = 'vector'),"
        " operations.pgvector_schema() IS NOT NULL"
    )
    row = await cursor.fetchone()
    return Pgvector(*row) if row else Pgvector(None, usable=False)
