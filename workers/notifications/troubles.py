"""What operators should know of callbacks: endpoints that were disabled by their failures, and notices that stay."""

from typing import NamedTuple

from workers.runtime.database import Raw


class Troubles(NamedTuple):
    """How many endpoints are disabled after failures, and how many notices no delivery could be made of."""

    disabled: int
    refused: int


async def count_troubles(conn: Raw) -> Troubles:
    """Count both. For operators; both tables are small."""
    found = await conn.execute(
        b"""SELECT (SELECT count(*) FROM notifications.endpoints
                     WHERE disabled_at IS NOT NULL AND consecutive_failures > 0),
                   (SELECT count(*) FROM runtime.notices WHERE problem IS NOT NULL)"""
    )
    row = await found.fetchone()
    assert row is not None
    return Troubles(*row)
