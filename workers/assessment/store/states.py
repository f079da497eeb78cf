"""Create, change and read assessments: the SQL functions, for sessions of SQLAlchemy."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from pydantic_core import PydanticSerializationError, to_json
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from models.assessments import STATES, Assessment
from workers.assessment.store.refusals import InvalidChange, UnknownAssessment, refusals
from workers.assessment.store.said import NOTHING, Said, saying

_CREATE = text(
    "SELECT assessments.create_assessment(:assessment_id, CAST(:request_data AS jsonb), :priority, :timeout_seconds)"
)
_UPDATE = text(
    "SELECT assessments.update_assessment_state(:assessment_id, CAST(:new_state AS assessments.assessmentstate), "
    ":version, CAST(:result_data AS jsonb), :error_message, :progress)"
)


async def create(
    session: AsyncSession,
    assessment_id: str,
    request_data: Mapping[str, Any],
    *,
    priority: int = 5,
    timeout_seconds: int | None = 300,
    said: Said = NOTHING,
) -> UUID:
    """Create a pending assessment and return its job id; the same request again returns the first one's.

    Raises InvalidChange for a value that breaks a rule, and for an ``assessment_id`` that exists with another request.
    """
    values = {
        "assessment_id": assessment_id,
        "request_data": _json(request_data, "request_data"),
        "priority": priority,
        "timeout_seconds": timeout_seconds,
    }
    async with refusals(session), saying(session, said):
        job_id: UUID = (await session.execute(_CREATE, values)).scalar_one()
    return job_id


async def update(
    session: AsyncSession,
    assessment_id: str,
    new_state: str,
    *,
    version: int,
    result_data: Mapping[str, Any] | None = None,
    error_message: str | None = None,
    progress: int | None = None,
    said: Said = NOTHING,
) -> int:
    """Change an assessment that still has ``version``; return its new version. What is None stays as it is.

    Raises Conflict with both versions, IllegalTransition, UnknownAssessment or InvalidChange; then nothing changed,
    and the transaction goes on. Updating one that a worker runs takes it over: the worker's run ends.
    """
    if new_state not in STATES:
        raise InvalidChange(f"state must be one of {', '.join(STATES)}, got {new_state!r}")
    values = {
        "assessment_id": assessment_id,
        "new_state": new_state,
        "version": version,
        "result_data": None if result_data is None else _json(result_data, "result_data"),
        "error_message": error_message,
        "progress": progress,
    }
    async with refusals(session), saying(session, said):
        await session.execute(_UPDATE, values)
    return version + 1


async def get(session: AsyncSession, assessment_id: str) -> Assessment:
    """Return an assessment as it is now, or raise UnknownAssessment."""
    found = await session.execute(
        select(Assessment).where(Assessment.assessment_id == assessment_id).execution_options(populate_existing=True)
    )
    assessment = found.scalar_one_or_none()
    if assessment is None:
        raise UnknownAssessment(f"assessment {assessment_id!r} does not exist (any more)")
    return assessment


async def list_newest(
    session: AsyncSession, *, state: str | None = None, limit: int = 50, after: UUID | None = None
) -> Sequence[Assessment]:
    """Return up to ``limit`` assessments, newest first; ``after`` is the last job id of the page before."""
    wanted = select(Assessment).order_by(Assessment.id.desc()).limit(limit)
    if state is not None:
        wanted = wanted.where(Assessment.status == state)
    if after is not None:
        wanted = wanted.where(Assessment.id < after)
    return (await session.execute(wanted)).scalars().all()


def _json(value: Mapping[str, Any], name: str) -> str:
    try:
        return to_json(value).decode()
    except PydanticSerializationError as error:
        raise InvalidChange(f"{name} is not JSON: {error}") from None
