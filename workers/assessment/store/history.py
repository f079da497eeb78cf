"""Read the audit trail of assessments; it outlives them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from workers.assessment.store.refusals import UnknownAssessment

_TRAIL = text(
    "SELECT id, assessment_id, old_state::text, new_state::text, version_from, version_to, changed_by, change_reason, "
    "change_action, created_at, context, host(ip_address) AS ip_address, user_agent "
    "FROM assessments.assessment_state_audit WHERE assessment_id = :assessment_id ORDER BY created_at, version_to"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One row of ``assessment_state_audit``."""

    id: UUID
    assessment_id: str
    old_state: str | None
    new_state: str
    version_from: int | None
    version_to: int
    changed_by: str | None
    change_reason: str | None
    change_action: str | None
    created_at: datetime
    context: dict[str, Any] | None
    ip_address: str | None
    user_agent: str | None


async def audit_trail(session: AsyncSession, assessment_id: str) -> list[AuditRow]:
    """Return every change of an assessment, oldest first, also when it is gone; raise UnknownAssessment for none.

    An id that was used again after a cleanup has both histories, each beginning with version 1.
    """
    rows = [AuditRow(**row) for row in (await session.execute(_TRAIL, {"assessment_id": assessment_id})).mappings()]
    if not rows:
        raise UnknownAssessment(f"assessment {assessment_id!r} has no history")
    return rows
