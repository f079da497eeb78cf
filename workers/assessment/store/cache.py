"""Store what a service computed from a state, for a limited time. Beat deletes expired entries.

An entry is returned only if the row has not changed since: after an update, an end or a deletion it no longer counts.
So the cache saves the computation, but still reads the row.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from workers.assessment.store.refusals import refusals
from workers.assessment.store.rows import decode_document
from workers.assessment.store.states import to_json_object

_PUT = text("SELECT assessments.put_cached_state(:assessment_id, CAST(:state_data AS jsonb), :ttl_seconds, :version)")
_GET = text("SELECT assessments.get_cached_state(:assessment_id)::text")
_MAX_SECONDS = 2**31 - 1


async def put(
    session: AsyncSession,
    assessment_id: str,
    state_data: Mapping[str, Any],
    *,
    ttl: timedelta = timedelta(minutes=1),
    version: int | None = None,
) -> None:
    """Store ``state_data`` for ``ttl``, or until the assessment changes. If it does not exist, store nothing.

    ``version`` is the version that was read; without it, the member ``version`` of ``state_data`` counts. If the
    assessment has another version now, nothing is stored. Raise InvalidChange if ``state_data`` is not an object, or if
    ``ttl`` is more than a day.
    """
    values = {
        "assessment_id": assessment_id,
        "state_data": to_json_object(state_data, "state_data"),
        "ttl_seconds": min(int(ttl.total_seconds()), _MAX_SECONDS),
        "version": version,
    }
    async with refusals(session):
        await session.execute(_PUT, values)


async def get(session: AsyncSession, assessment_id: str) -> dict[str, Any] | None:
    """Return the stored state and count the access; None if it expired or the assessment has changed."""
    async with refusals(session):
        found = (await session.execute(_GET, {"assessment_id": assessment_id})).scalar_one()
    state_data, _ = decode_document(found, is_null=True, name="state_data")
    return state_data if isinstance(state_data, dict) else None
