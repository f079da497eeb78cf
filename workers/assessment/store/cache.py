"""Remember a state for a while: what a service computed of it, or what is dear to read. Beat deletes what expired.

Nothing older than the row is given out: an update, an ending or a deletion makes what was put before unread. So the
cache saves the computing, not the look at the row.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from workers.assessment.store.refusals import refusals
from workers.assessment.store.rows import decoded
from workers.assessment.store.states import as_json

_PUT = text("SELECT assessments.put_cached_state(:assessment_id, CAST(:state_data AS jsonb), :ttl_seconds, :version)")
_GET = text("SELECT assessments.get_cached_state(:assessment_id)::text")
_MOST_SECONDS = 2**31 - 1


async def put(
    session: AsyncSession,
    assessment_id: str,
    state_data: Mapping[str, Any],
    *,
    ttl: timedelta = timedelta(minutes=1),
    version: int | None = None,
) -> None:
    """Remember ``state_data`` for ``ttl``, until the assessment changes; of one that does not exist nothing is kept.

    ``version`` is the one that was read, else the member ``version`` of ``state_data``: if the assessment has moved on
    since, nothing is kept. Raises InvalidChange for what is no object or a time beyond a day.
    """
    values = {
        "assessment_id": assessment_id,
        "state_data": as_json(state_data, "state_data"),
        "ttl_seconds": min(int(ttl.total_seconds()), _MOST_SECONDS),
        "version": version,
    }
    async with refusals(session):
        await session.execute(_PUT, values)


async def get(session: AsyncSession, assessment_id: str) -> dict[str, Any] | None:
    """Return what was put, has not expired and is what the row says still, and count the access; else None."""
    async with refusals(session):
        found = (await session.execute(_GET, {"assessment_id": assessment_id})).scalar_one()
    state_data, _ = decoded(found, is_null=True, name="state_data")
    return state_data if isinstance(state_data, dict) else None
