"""Records as people look at them: list, show, review, delete."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from models.operations import RECORD_CATEGORIES, RECORD_TYPES, DataRecord, LikertScore
from workers.operations.refusals import OperationsError, UnknownRecord
from workers.runtime.handler.naming import named
from workers.runtime.refusals import quoted


def as_type(text: str | None) -> str | None:
    """Return the record type that ``text`` names in any case; raise OperationsError for anything else."""
    return _one_of(text, RECORD_TYPES, "type")


def as_category(text: str | None) -> str | None:
    """Return the category that ``text`` names in any case; raise OperationsError for anything else."""
    return _one_of(text, RECORD_CATEGORIES, "category")


async def list_records(
    session: AsyncSession,
    *,
    project_id: UUID,
    type_: str | None = None,
    category: str | None = None,
    reviewed: bool | None = None,
    limit: int = 50,
    after: UUID | None = None,
) -> Sequence[DataRecord]:
    """Return a project's records, newest first, from below ``after`` on; without their vectors."""
    query = select(DataRecord).where(DataRecord.project_id == project_id).options(defer(DataRecord.embedding))
    if type_ is not None:
        query = query.where(DataRecord.type == type_)
    if category is not None:
        query = query.where(DataRecord.category == category)
    if reviewed is not None:
        query = query.where(DataRecord.has_been_reviewed == reviewed)
    if after is not None:
        query = query.where(DataRecord.id < after)
    return (await session.scalars(query.order_by(DataRecord.id.desc()).limit(limit))).all()


async def get(session: AsyncSession, record_id: UUID) -> DataRecord:
    """Return one record; raise UnknownRecord."""
    found = await session.get(DataRecord, record_id)
    if found is None:
        raise UnknownRecord(f"record {record_id} does not exist (any more)")
    return found


async def ratings_of(session: AsyncSession, record_id: UUID) -> Sequence[LikertScore]:
    """Return what people and models gave a record, oldest first."""
    query = select(LikertScore).where(LikertScore.record_id == record_id).order_by(LikertScore.id)
    return (await session.scalars(query)).all()


async def review(
    session: AsyncSession, record_ids: Sequence[UUID], *, reviewer: str, is_category_correct: bool | None
) -> set[UUID]:
    """Note that ``reviewer`` has looked at these records, and whether their category is right; return those found.

    A later review replaces an earlier one. Of a record without a category nothing can be right or wrong.
    """
    reviewer = named("reviewer", reviewer, error=OperationsError)
    if is_category_correct is not None:
        without = await session.scalar(
            select(DataRecord.id).where(DataRecord.id.in_(record_ids), DataRecord.category.is_(None)).limit(1)
        )
        if without is not None:
            raise OperationsError(f"record {without} has no category that could be right or wrong")
    done = await session.scalars(
        update(DataRecord)
        .where(DataRecord.id.in_(record_ids))
        .values(has_been_reviewed=True, is_category_correct=is_category_correct, reviewed_by=reviewer)
        .returning(DataRecord.id)
    )
    return set(done)


async def count(session: AsyncSession, project_id: UUID) -> int:
    """Return how many records a project has."""
    query = select(func.count()).select_from(DataRecord).where(DataRecord.project_id == project_id)
    return int(await session.scalar(query) or 0)


async def remove(session: AsyncSession, record_ids: Sequence[UUID]) -> set[UUID]:
    """Delete records with their ratings; return those that were there."""
    gone = delete(DataRecord).where(DataRecord.id.in_(record_ids)).returning(DataRecord.id)
    return set(await session.scalars(gone))


def _one_of(text: str | None, known: tuple[str, ...], field: str) -> str | None:
    if text is None:
        return None
    name = text.strip().upper().replace(" ", "_").replace("-", "_")
    if name not in known:
        raise OperationsError(f"{field} must be one of {', '.join(known).lower()}, got {quoted(text)}")
    return name
