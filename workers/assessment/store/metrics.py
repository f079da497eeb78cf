"""Read what was measured of an assessment: by the database at each ending, and by services."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from workers.assessment.store.refusals import storable
from workers.assessment.store.rows import BY_OWNER, of_one_owner, time

_MEASURED = text(f"""
    SELECT metric_type, metric_value, {time("timestamp")}, owner_id
      FROM assessments.assessment_metrics
     WHERE assessment_id = :assessment_id AND {BY_OWNER}
     ORDER BY assessment_metrics.timestamp, id
""")  # noqa: S608 - names of columns only


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One row of ``assessment_metrics``; ``timestamp`` is None where no client can show it."""

    metric_type: str
    metric_value: int
    timestamp: datetime | None
    owner_id: UUID | None


async def measurements(session: AsyncSession, assessment_id: str, *, owner: UUID | None = None) -> list[Measurement]:
    """Return what was measured of an assessment, oldest first; nothing for one that was never measured.

    Whose assessment of that name is meant, :func:`workers.assessment.store.states.get` says.
    """
    storable(assessment_id, name="assessment_id")
    rows = (await session.execute(_MEASURED, {"assessment_id": assessment_id, "owner": owner})).mappings()
    found = [Measurement(**{name: value for name, value in row.items() if name != "timestamp_odd"}) for row in rows]
    return of_one_owner(found, assessment_id)
