"""Hand notices of ended jobs to those who take them: ``runtime.take_notices``, for the leading dispatcher."""

from typing import NamedTuple

from workers.runtime.database import Raw


class Taken(NamedTuple):
    """How many notices the takers have taken, and how many they refused: those stay with the reason."""

    taken: int
    refused: int


async def take_notices(conn: Raw, *, term: int, limit: int) -> Taken:
    """Hand up to ``limit`` notices to every taker and delete them, in one transaction; nothing unless ``term`` leads.

    A taker's statement that fails for another reason than the values of one notice raises, and every notice stays.
    """
    cursor = await conn.execute(
        "SELECT taken, refused FROM runtime.take_notices(%(term)s, %(limit)s)", {"term": term, "limit": limit}
    )
    row = await cursor.fetchone()
    assert row is not None
    return Taken(*row)
