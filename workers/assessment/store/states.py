"""Create, change, cancel, give and read assessments: the SQL functions, for sessions of SQLAlchemy.

An :class:`Actor` with a ``user_id`` acts for that owner; one without acts for whom the session acts already.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from pydantic_core import PydanticSerializationError, to_json
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from models.assessments import STATES
from workers.assessment.store.refusals import InvalidChange, UnknownAssessment, WrongState, refusals, storable
from workers.assessment.store.rows import COLUMNS, LISTED, AssessmentView, view, views
from workers.runtime.actor import NOBODY, Actor, acting
from workers.runtime.database import Raw
from workers.runtime.refusals import Problem, quoted

_CREATE = text(
    "SELECT assessments.create_assessment(:assessment_id, CAST(:request_data AS jsonb), :priority, :timeout_seconds)"
)
_UPDATE = text(
    "SELECT assessments.update_assessment_state(:assessment_id, CAST(:new_state AS assessments.assessmentstate), "
    ":version, CAST(:result_data AS jsonb), :error_message, :progress)"
)
_CANCEL = text("SELECT runtime.cancel(:job_id, :reason)")
_GIVE = text("SELECT assessments.give_assessment(:assessment_id, :owner)")
_CANCEL_UNFINISHED = text(
    "SELECT runtime.cancel(id, 'removed by a person') FROM assessments.assessment_states "
    "WHERE id = ANY (:ids) AND completed_at IS NULL"
)
_REMOVE = text("DELETE FROM assessments.assessment_states WHERE id = ANY (:ids) RETURNING id")
_FROM = f"SELECT {COLUMNS} FROM assessments.assessment_states"  # noqa: S608 - names of columns only
_GET = text(f"{_FROM} WHERE id = assessments.job_of(:assessment_id)")
_LIST = """
    SELECT {columns} FROM assessments.assessment_states
     WHERE (CAST(:state AS text) IS NULL OR state = CAST(:state AS assessments.assessmentstate))
       AND (CAST(:owner AS uuid) IS NULL OR owner_id = :owner)
       AND (CAST(:after AS uuid) IS NULL OR id < :after)
     ORDER BY id DESC LIMIT :limit
"""
_LIST_WHOLE, _LIST_SHORT = (text(_LIST.format(columns=columns)) for columns in (COLUMNS, LISTED))


def state_named(state: str) -> str:
    """Return the state that ``state`` names, in any case; raise InvalidChange where none is."""
    known = state.strip().lower()
    if known not in STATES:
        raise InvalidChange(Problem("state", f"must be one of {', '.join(STATES)}", quoted(state)))
    return known


async def create(
    session: AsyncSession,
    assessment_id: str,
    request_data: Mapping[str, Any],
    *,
    priority: int = 5,
    timeout_seconds: int | None = 300,
    actor: Actor = NOBODY,
) -> UUID:
    """Create a pending assessment and return its job id; the same request again returns the first one's.

    It belongs to the user for whom ``actor`` acts. Raises InvalidChange for a value that breaks a rule, and
    for an ``assessment_id`` that this owner has with another request.
    """
    storable(assessment_id, name="assessment_id")
    values = {
        "assessment_id": assessment_id,
        "request_data": as_json(request_data, "request_data"),
        "priority": priority,
        "timeout_seconds": timeout_seconds,
    }
    async with refusals(session), acting(session, actor):
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
    actor: Actor = NOBODY,
) -> int:
    """Change an assessment that still has ``version``; return its new version. What is None stays as it is.

    Raises Conflict with both versions, IllegalTransition, UnknownAssessment or InvalidChange; then nothing changed,
    and the transaction goes on. Updating one that a worker runs takes it over: the worker's run ends. Which assessment
    of that name is meant, :func:`get` says.
    """
    new_state = state_named(new_state)
    storable(assessment_id, name="assessment_id")
    storable(error_message, name="error_message")
    values = {
        "assessment_id": assessment_id,
        "new_state": new_state,
        "version": version,
        "result_data": None if result_data is None else as_json(result_data, "result_data"),
        "error_message": error_message,
        "progress": progress,
    }
    async with refusals(session), acting(session, actor):
        await session.execute(_UPDATE, values)
    return version + 1


async def cancel(session: AsyncSession, assessment_id: str, *, actor: Actor = NOBODY) -> UUID:
    """Cancel an assessment that waits or runs, whatever its version; return its job id. Its reason is the actor's.

    A run is stopped within a second. Raises UnknownAssessment, and WrongState for one that has ended. Which
    assessment of that name is meant, :func:`get` says.
    """
    found = await get(session, assessment_id, owner=actor.user_id)
    async with refusals(session), acting(session, actor):
        asked = {"job_id": found.id, "reason": actor.change_reason}
        if not (await session.execute(_CANCEL, asked)).scalar_one():
            ended = await get(session, assessment_id, owner=actor.user_id)
            raise WrongState(f"assessment {assessment_id!r} is {ended.status} already")
    return found.id


async def give(session: AsyncSession, assessment_id: str, *, to: UUID, actor: Actor = NOBODY) -> int | None:
    """Give the assessment of that name that nobody owns to the user ``to``; return its new version.

    Its history and its measurements go with it, and those of assessments of that name that were deleted; None where
    only these are left. Only an operator may do it. Nobody can take it back. Raises UnknownAssessment where every
    assessment of that name has an owner, InvalidChange where the user has one of that name already, WrongState for one
    that is processed, and Forbidden.
    """
    storable(assessment_id, name="assessment_id")
    async with refusals(session), acting(session, actor):
        version: int | None = (await session.execute(_GIVE, {"assessment_id": assessment_id, "owner": to})).scalar_one()
    return version


async def remove(session: AsyncSession, job_ids: Sequence[UUID], *, actor: Actor = NOBODY) -> int:
    """Delete assessments by their job ids; return how many. Unfinished ones are cancelled first. The history stays."""
    async with acting(session, actor):
        await session.execute(_CANCEL_UNFINISHED, {"ids": list(job_ids)})
        gone = await session.execute(_REMOVE, {"ids": list(job_ids)})
    return len(gone.all())


async def get(session: AsyncSession, assessment_id: str, *, owner: UUID | None = None) -> AssessmentView:
    """Return an assessment as it is now, or raise UnknownAssessment.

    It is the one of ``owner``, else of whom the session acts for. An operator who acts for nobody gets the one that
    nobody owns, and where there is none the only one of that name; InvalidChange where several owners have one.
    """
    storable(assessment_id, name="assessment_id")
    async with refusals(session), acting(session, Actor(user_id=owner)):
        row = (await session.execute(_GET, {"assessment_id": assessment_id})).mappings().one_or_none()
    if row is None:
        raise UnknownAssessment(f"assessment {assessment_id!r} does not exist (any more)")
    return view(row)


async def list_newest(
    session: AsyncSession,
    *,
    state: str | None = None,
    owner: UUID | None = None,
    limit: int = 50,
    after: UUID | None = None,
    short: bool = False,
) -> Sequence[AssessmentView]:
    """Return up to ``limit`` assessments, newest first; ``after`` is the last job id of the page before.

    A field that cannot be shown is None and explained; it costs the other fields and rows nothing. ``short``: a large
    request holds only its type, a large result only its verdict.
    """
    wanted = {"state": state and state_named(state), "owner": owner, "after": after, "limit": limit}
    return views((await session.execute(_LIST_SHORT if short else _LIST_WHOLE, wanted)).mappings().all())


async def has_ended(conn: Raw, job_id: UUID) -> tuple[bool, bool]:
    """Return whether an assessment has ended, and whether it is completed; one that was deleted has ended."""
    cursor = await conn.execute(
        "SELECT completed_at IS NOT NULL, state = 'completed' FROM assessments.assessment_states WHERE id = %s",
        [job_id],
    )
    ended, completed = await cursor.fetchone() or (True, False)
    return ended, completed


def as_json(value: Mapping[str, Any], name: str) -> str:
    """Return ``value`` as JSON; raise InvalidChange where it is no object or cannot be kept."""
    storable(value, name=name)
    if not isinstance(value, Mapping):
        raise InvalidChange(Problem(name, "must be a JSON object", quoted(value)))
    try:
        return to_json(value).decode()
    except PydanticSerializationError as error:
        raise InvalidChange(f"{name} is not JSON: {error}") from None
