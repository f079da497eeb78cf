"""Remember a state for a while, where reading it again costs more than its age matters. Beat deletes what expired."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pydantic_core import to_json
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

_PUT = text("SELECT assessments.put_cached_state(:assessment_id, CAST(:state_data AS jsonb), :ttl_seconds)")
_GET = text("SELECT assessments.get_cached_state(:assessment_id)")


async def put(
    session: AsyncSession, assessment_id: str, state_data: Mapping[str, Any], *, ttl: timedelta = timedelta(minutes=1)
) -> None:
    """Remember ``state_data`` for ``ttl``. A change of the assessment does not reach it: it is that old at most."""
    seconds = int(ttl.total_seconds())
    values = {"assessment_id": assessment_id, "state_data": to_json(state_data).decode(), "ttl_seconds": seconds}
    await session.execute(_PUT, values)


async def get(session: AsyncSession, assessment_id: str) -> dict[str, Any] | None:
    """Return what was put and has not expired, and count the access; None if there is nothing."""
    found: dict[str, Any] | None = (await session.execute(_GET, {"assessment_id": assessment_id})).scalar_one()
    return found
