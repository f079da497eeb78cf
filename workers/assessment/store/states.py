"""Create, change, cancel, give and read assessments: the SQL functions for SQLAlchemy sessions.

An :class:`Actor` with a ``user_id`` acts for that owner. Without one it acts for the user of the session.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from pydantic_core import PydanticSerializationError, to_json
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from models.assessments import STATES
from workers.assessment.store.refusals import InvalidChange, UnknownAssessment, WrongState, refusals, require_storable
from workers.assessment.store.rows import COLUMNS, LISTED, AssessmentView, view, views
from workers.runtime.actor import NOBODY, Actor, acting
from workers.runtime.database import Raw
from workers.runtime.enqueue import Enqueued
from workers.runtime.refusals import Problem, quoted

_CREATE = text(
    "SELECT assessments.create_assessment(:assessment_id, CAST(:request_data AS jsonb), :priority, :timeout_seconds)"
)
_UPDATE = text(
    "SELECT assessments.update_assessment_state(:assessment_id, CAST(:new_state AS assessments.assessmentstate), "
    ":version, CAST(:result_data AS jsonb), :error_message, :progress)"
)
# The time of a row is that of the transaction that wrote it.
_IS_NEW = text("SELECT version = 1 AND created_at = now() FROM assessments.assessment_states WHERE id = :id")
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


def parse_state(state: str) -> str:
    """Return the state with this name, in any case; raise InvalidChange if it does not exist."""
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
    """Create a pending assessment and return its job id. The same request again returns the first job id.

    It belongs to the user for whom ``actor`` acts. Raise InvalidChange if a value breaks a rule, or if this owner has
    the ``assessment_id`` with another request.
    """
    require_storable(assessment_id, name="assessment_id")
    values = {
        "assessment_id": assessment_id,
        "request_data": to_json_object(request_data, "request_data"),
        "priority": priority,
        "timeout_seconds": timeout_seconds,
    }
    async with refusals(session), acting(session, actor):
        job_id: UUID = (await session.execute(_CREATE, values)).scalar_one()
    return job_id


async def create_once(
    session: AsyncSession,
    assessment_id: str,
    request_data: Mapping[str, Any],
    *,
    priority: int = 5,
    timeout_seconds: int | None = 300,
    actor: Actor = NOBODY,
) -> Enqueued:
    """Create an assessment as :func:`create` does, and say whether it is new."""
    job_id = await create(
        session, assessment_id, request_data, priority=priority, timeout_seconds=timeout_seconds, actor=actor
    )
    async with acting(session, actor):
        return Enqueued(job_id, bool(await session.scalar(_IS_NEW, {"id": job_id})))


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
    """Change an assessment that still has ``version``; return its new version. A value of None is not changed.

    Raise VersionConflict with both versions, IllegalTransition, UnknownAssessment or InvalidChange. Then nothing is
    changed, and the transaction can continue. If a worker runs the assessment, the update takes it over: the worker's
    run ends. :func:`get` says which owner's assessment is meant.
    """
    new_state = parse_state(new_state)
    require_storable(assessment_id, name="assessment_id")
    require_storable(error_message, name="error_message")
    values = {
        "assessment_id": assessment_id,
        "new_state": new_state,
        "version": version,
        "result_data": None if result_data is None else to_json_object(result_data, "result_data"),
        "error_message": error_message,
        "progress": progress,
    }
    async with refusals(session), acting(session, actor):
        await session.execute(_UPDATE, values)
    return version + 1


async def cancel(session: AsyncSession, assessment_id: str, *, actor: Actor = NOBODY) -> UUID:
    """Cancel a waiting or running assessment of any version, with the actor's reason; return its job id.

    A run stops within a second. Raise UnknownAssessment, or WrongState if it has ended. :func:`get` says which owner's
    assessment is meant.
    """
    found = await get(session, assessment_id, owner=actor.user_id)
    async with refusals(session), acting(session, actor):
        asked = {"job_id": found.id, "reason": actor.change_reason}
        if not (await session.execute(_CANCEL, asked)).scalar_one():
            ended = await get(session, assessment_id, owner=actor.user_id)
            raise WrongState(f"assessment {assessment_id!r} is {ended.status} already")
    return found.id


async def give(session: AsyncSession, assessment_id: str, *, to: UUID, actor: Actor = NOBODY) -> int | None:
    """Give the assessment of this name that has no owner to the user ``to``; return its new version.

    Its history and measurements are given too, with those of deleted assessments of this name. Return None if only
    these exist. Only an operator may do this, and nobody can undo it. Raise UnknownAssessment if every assessment of
    this name has an owner, InvalidChange if the user already has one of this name, WrongState if it is processing, and
    Forbidden.
    """
    require_storable(assessment_id, name="assessment_id")
    async with refusals(session), acting(session, actor):
        version: int | None = (await session.execute(_GIVE, {"assessment_id": assessment_id, "owner": to})).scalar_one()
    return version


async def remove(session: AsyncSession, job_ids: Sequence[UUID], *, actor: Actor = NOBODY) -> int:
    """Delete assessments by job id; return how many. Unfinished ones are cancelled first. The history stays."""
    async with acting(session, actor):
        await session.execute(_CANCEL_UNFINISHED, {"ids": list(job_ids)})
        gone = await session.execute(_REMOVE, {"ids": list(job_ids)})
    return len(gone.all())


async def get(session: AsyncSession, assessment_id: str, *, owner: UUID | None = None) -> AssessmentView:
    """Return an assessment as it is now; raise UnknownAssessment if it does not exist.

    It is the assessment of ``owner``, or without ``owner`` that of the session's user. An operator who acts for no user
    gets the one without an owner, else the only one of this name. Raise InvalidChange if several owners have one.
    """
    require_storable(assessment_id, name="assessment_id")
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
    """Return up to ``limit`` assessments, newest first; ``after`` is the last job id of the previous page.

    If a field cannot be shown, it is None and the reason is given; other fields and rows are not affected. With
    ``short``, a large request holds only its type and a large result only its verdict.
    """
    wanted = {"state": state and parse_state(state), "owner": owner, "after": after, "limit": limit}
    return views((await session.execute(_LIST_SHORT if short else _LIST_WHOLE, wanted)).mappings().all())


async def has_ended(conn: Raw, job_id: UUID) -> tuple[bool, bool]:
    """Return whether an assessment has ended, and whether it is completed. A deleted one has ended."""
    cursor = await conn.execute(
        "SELECT completed_at IS NOT NULL, state = 'completed' FROM assessments.assessment_states WHERE id = %s",
        [job_id],
    )
    ended, completed = await cursor.fetchone() or (True, False)
    return ended, completed


def to_json_object(value: Mapping[str, Any], name: str) -> str:
    """Return ``value`` as JSON text; raise InvalidChange if it is not an object or cannot be stored."""
    require_storable(value, name=name)
    if not isinstance(value, Mapping):
        raise InvalidChange(Problem(name, "must be a JSON object", quoted(value)))
    try:
        return to_json(value).decode()
    except PydanticSerializationError as error:
        raise InvalidChange(f"{name} is not JSON: {error}") from None
