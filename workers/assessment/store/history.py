"""Read the audit trail of assessments. It stays when an assessment is deleted."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from workers.assessment.store.refusals import UnknownAssessment, require_storable
from workers.assessment.store.rows import BY_OWNER, AssessmentView, decode_document, document_columns, rows_of_one_owner
from workers.assessment.store.states import get

_TRAIL = text(f"""
    SELECT id, assessment_id, owner_id, old_state::text, new_state::text, version_from, version_to, changed_by,
           change_reason, change_action, created_at, {document_columns("context")},
           host(ip_address) AS ip_address, user_agent
      FROM assessments.assessment_state_audit
     WHERE assessment_id = :assessment_id
       AND {BY_OWNER}
     ORDER BY created_at, version_to
""")  # noqa: S608 - names of columns only


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One row of ``assessment_state_audit``. If its context cannot be shown, ``context`` is the reason."""

    id: UUID
    assessment_id: str
    owner_id: UUID | None
    old_state: str | None
    new_state: str
    version_from: int | None
    version_to: int
    changed_by: str | None
    change_reason: str | None
    change_action: str | None
    created_at: datetime
    context: Any
    ip_address: str | None
    user_agent: str | None


async def audit_trail(session: AsyncSession, assessment_id: str, *, owner: UUID | None = None) -> list[AuditRow]:
    """Return every change of an assessment, oldest first, even if it was deleted; raise UnknownAssessment if none.

    If an id was used again after a cleanup, both histories are returned. Each begins with version 1.
    :func:`workers.assessment.store.states.get` says which owner's assessment is meant.
    """
    require_storable(assessment_id, name="assessment_id")
    found = await session.execute(_TRAIL, {"assessment_id": assessment_id, "owner": owner})
    rows = rows_of_one_owner([_row(row) for row in found.mappings()], assessment_id)
    if not rows:
        raise UnknownAssessment(f"assessment {assessment_id!r} has no history")
    return rows


@dataclass(frozen=True, slots=True)
class AssessmentHistory:
    """An assessment and its history. The assessment is None if it was deleted and only its history exists."""

    assessment: AssessmentView | None
    audit: list[AuditRow]


async def with_history(session: AsyncSession, assessment_id: str, *, owner: UUID | None = None) -> AssessmentHistory:
    """Return an assessment, if it still exists, and its history; raise UnknownAssessment if neither exists."""
    try:
        assessment = await get(session, assessment_id, owner=owner)
    except UnknownAssessment:
        return AssessmentHistory(None, await audit_trail(session, assessment_id, owner=owner))
    return AssessmentHistory(assessment, await audit_trail(session, assessment_id, owner=assessment.owner_id))


def _row(row: RowMapping) -> AuditRow:
    values = dict(row)
    context, reason = decode_document(values.pop("context"), is_null=values.pop("context_is_null"), name="context")
    return AuditRow(**values, context=reason or context)
