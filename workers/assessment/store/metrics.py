"""Read the measurements of an assessment: the database writes some at each end, services write others."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from workers.assessment.store.refusals import require_storable
from workers.assessment.store.rows import BY_OWNER, rows_of_one_owner, time_columns

_MEASURED = text(f"""
    SELECT id, metric_type, metric_value, {time_columns("timestamp")}, owner_id
      FROM assessments.assessment_metrics
     WHERE assessment_id = :assessment_id AND {BY_OWNER}
     ORDER BY assessment_metrics.timestamp, id
""")  # noqa: S608 - names of columns only


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One row of ``assessment_metrics``; ``timestamp`` is None if no client can show it."""

    id: UUID
    metric_type: str
    metric_value: int
    timestamp: datetime | None
    owner_id: UUID | None


async def list_measurements(
    session: AsyncSession, assessment_id: str, *, owner: UUID | None = None
) -> list[Measurement]:
    """Return the measurements of an assessment, oldest first; an empty list if there are none.

    :func:`workers.assessment.store.states.get` says which owner's assessment is meant.
    """
    require_storable(assessment_id, name="assessment_id")
    rows = (await session.execute(_MEASURED, {"assessment_id": assessment_id, "owner": owner})).mappings()
    found = [Measurement(**{name: value for name, value in row.items() if name != "timestamp_odd"}) for row in rows]
    return rows_of_one_owner(found, assessment_id)
