"""List, show, review and delete records."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import case, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import RECORD_CATEGORIES, RECORD_TYPES, DataRecord, LikertScore
from workers.operations.projects import require_change
from workers.operations.refusals import OperationsError, UnknownRecord
from workers.operations.seed_names import by_column
from workers.runtime.actor import NOBODY, Actor, acting
from workers.runtime.handler.documents import json_value
from workers.runtime.handler.naming import check_name
from workers.runtime.refusals import Problem, quoted

# A list cuts contents and leaves out large documents, so that a thousand records always fit into memory.
MAX_LISTED_CONTENT_CHARACTERS = 64 * 1024
MAX_LISTED_DOCUMENT_BYTES = 256 * 1024
MAX_SHOWN_RECORD_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordView:
    """One record without its vector. ``embedding_model`` is the model of the vector; None if there is no vector yet."""

    id: UUID
    project_id: UUID
    type: str
    category: str | None
    source: str
    content: str
    metadata: Any
    embedding_model: str | None
    alignment_analysis: str | None
    alignment: Any
    alignment_job_id: UUID | None
    has_been_reviewed: bool
    is_category_correct: bool | None
    reviewed_by: str | None
    created_by_id: str | None
    created_by_name: str | None
    created_by_email: str | None
    ingest_job_id: UUID | None
    created_at: datetime
    updated_at: datetime

    @property
    def verdict(self) -> str | None:
        """The verdict of the analysis; None without an analysis; the reason if it cannot be read."""
        if self.alignment is None:
            return None
        return self.alignment.get("verdict") if isinstance(self.alignment, dict) else str(self.alignment)

    def by_column(self) -> dict[str, Any]:
        """Return the values by column name, for JSON."""
        return by_column(DataRecord, self)


@dataclass(frozen=True, slots=True)
class GivenScore:
    """The rating of a record by a person or a model: 1 (worst) to 7 (best)."""

    user_id: str
    llm_model: str | None
    realism_score: int
    quality_score: int
    updated_at: datetime

    def by_column(self) -> dict[str, Any]:
        """Return the values by column name, for JSON."""
        return by_column(LikertScore, self)


@dataclass(frozen=True, slots=True)
class RecordDetails:
    """One record with the length of its vector and its ratings, oldest first."""

    record: RecordView
    dimensions: int
    scores: Sequence[GivenScore]


def as_type(text: str | None) -> str | None:
    """Return the record type with this name, in any case; raise OperationsError if it does not exist."""
    return _one_of(text, RECORD_TYPES, "type")


def as_category(text: str | None) -> str | None:
    """Return the category with this name, in any case; raise OperationsError if it does not exist."""
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
) -> list[RecordView]:
    """Return a project's records, newest first; ``after`` is the last id of the previous page.

    Type and category may be in any case.
    """
    query = select(*_shown(content=MAX_LISTED_CONTENT_CHARACTERS, document=MAX_LISTED_DOCUMENT_BYTES))
    query = query.where(DataRecord.project_id == project_id)
    if (type_ := as_type(type_)) is not None:
        query = query.where(DataRecord.type == type_)
    if (category := as_category(category)) is not None:
        query = query.where(DataRecord.category == category)
    if reviewed is not None:
        query = query.where(DataRecord.has_been_reviewed == reviewed)
    if after is not None:
        query = query.where(DataRecord.id < after)
    found = await session.execute(query.order_by(DataRecord.id.desc()).limit(limit))
    return [_view(row, most_bytes=MAX_LISTED_DOCUMENT_BYTES) for row in found]


async def show(session: AsyncSession, record_id: UUID, *, project_id: UUID | None = None) -> RecordDetails:
    """Return one record (of that project, if given) with its ratings; raise UnknownRecord."""
    length = func.cardinality(DataRecord.embedding)
    query = select(*_shown(content=MAX_SHOWN_RECORD_BYTES, document=MAX_SHOWN_RECORD_BYTES), length)
    query = query.where(DataRecord.id == record_id)
    if project_id is not None:
        query = query.where(DataRecord.project_id == project_id)
    found = (await session.execute(query)).one_or_none()
    if found is None:
        raise UnknownRecord(f"record {record_id} does not exist (any more)")
    given = await session.scalars(
        select(LikertScore).where(LikertScore.record_id == record_id).order_by(LikertScore.id)
    )
    scores = [
        GivenScore(one.user_id, one.llm_model, one.realism_score, one.quality_score, one.updated_at) for one in given
    ]
    return RecordDetails(_view(found[:-1], most_bytes=MAX_SHOWN_RECORD_BYTES), found[-1], scores)


async def review(
    session: AsyncSession,
    record_ids: Sequence[UUID],
    *,
    reviewer: str,
    is_category_correct: bool | None,
    project_id: UUID | None = None,
    actor: Actor = NOBODY,
) -> set[UUID]:
    """Store that ``reviewer`` reviewed these records, and whether their category is right; return their ids.

    A later review replaces an earlier one. If a service acts for a user, the database writes that user as the
    reviewer. ``project_id`` is the project of all these records, if it is known: Forbidden is raised if it belongs to
    another user. Raise OperationsError if ``is_category_correct`` is given and a record has no category. Raise
    UnknownRecord if a record does not exist; then none is changed.
    """
    reviewer = check_name("reviewer", reviewer, error=OperationsError)
    of_project = [] if project_id is None else [DataRecord.project_id == project_id]
    if project_id is not None:
        await require_change(session, project_id)
    async with acting(session, actor), session.begin_nested():
        if is_category_correct is not None:
            without = await session.scalar(
                select(DataRecord.id).where(DataRecord.id.in_(record_ids), DataRecord.category.is_(None)).limit(1)
            )
            if without is not None:
                raise OperationsError(f"record {without} has no category that could be right or wrong")
        changed = await session.scalars(
            update(DataRecord)
            .where(DataRecord.id.in_(record_ids), *of_project)
            .values(has_been_reviewed=True, is_category_correct=is_category_correct, reviewed_by=reviewer)
            .returning(DataRecord.id)
        )
        done = set(changed)
        if missing := [str(id_) for id_ in record_ids if id_ not in done]:
            raise UnknownRecord(f"records {', '.join(missing)} do not exist (any more); none was changed")
    return done


async def remove(session: AsyncSession, record_ids: Sequence[UUID], *, actor: Actor = NOBODY) -> set[UUID]:
    """Delete records with their ratings; return the ids of those that existed."""
    gone = delete(DataRecord).where(DataRecord.id.in_(record_ids)).returning(DataRecord.id)
    async with acting(session, actor):
        return set(await session.scalars(gone))


def _shown(*, content: int, document: int) -> list[Any]:
    """Return a column per field: the content cut to ``content`` characters, documents as text of ``document`` bytes."""
    return [_column(field.name, content=content, document=document) for field in fields(RecordView)]


def _column(name: str, *, content: int, document: int) -> Any:
    match name:
        case "content":
            return func.left(DataRecord.content, content)
        case "metadata" | "alignment":
            column: Any = DataRecord.metadata_ if name == "metadata" else DataRecord.alignment
            return case((column.is_not(None), func.coalesce(func.runtime.readable(column, document), "")))
        case _:
            return getattr(DataRecord, name)


def _view(row: Sequence[Any], *, most_bytes: int) -> RecordView:
    values = {field.name: value for field, value in zip(fields(RecordView), row, strict=True)}
    for name in ("metadata", "alignment"):
        values[name] = json_value(values[name], most_bytes=most_bytes)
    return RecordView(**values)


def _one_of(text: str | None, known: tuple[str, ...], field: str) -> str | None:
    if text is None:
        return None
    name = text.strip().upper().replace(" ", "_").replace("-", "_")
    if name not in known:
        raise OperationsError(Problem(field, f"must be one of {', '.join(known).lower()}", quoted(text)))
    return name
