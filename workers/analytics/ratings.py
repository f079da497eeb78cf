"""Ratings by people: one per person and record. A person can change a rating."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, ValidationError
from sqlalchemy import func, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import LLM_USER, DataRecord, LikertScore
from workers.analytics.alignment import is_rule_based
from workers.runtime.actor import NOBODY, Actor, acting
from workers.runtime.handler.naming import Name
from workers.runtime.refusals import NotFound, Refusal, first_problem


class RatingError(Refusal, ValueError):
    """The rating cannot be stored. The message is one line with the field, the rule and the value."""


class UnratableRecord(NotFound):
    """The record to rate does not exist. The message is one line."""


def _require_person(user: str) -> str:
    if user == LLM_USER:
        raise ValueError("must be a person's id, not the id that stands for models")
    return user


StrictLikertPoints = Annotated[StrictInt, Field(ge=1, le=7)]


class Rating(BaseModel):
    """A person's rating of a record: 1 (worst) to 7 (best)."""

    model_config = ConfigDict(extra="forbid")

    user: Annotated[Name, AfterValidator(_require_person)]
    realism: StrictLikertPoints
    quality: StrictLikertPoints


@dataclass(frozen=True, slots=True)
class RatingView:
    """One rating as it is listed. ``model`` is None if a person gave it."""

    id: UUID
    record_id: UUID
    type: str
    excerpt: str
    user: str
    model: str | None
    rule_based: bool
    realism: int
    quality: int
    updated_at: datetime


async def rate(
    session: AsyncSession,
    record_id: UUID,
    user_id: str,
    *,
    realism: int,
    quality: int,
    project_id: UUID | None = None,
    actor: Actor = NOBODY,
) -> UUID:
    """Store a person's rating of a record (of that project, if given) in place of their earlier one; return its id.

    Raises RatingError if a value is outside the scale, and UnratableRecord if the record does not exist.
    """
    given = _valid(user=user_id, realism=realism, quality=quality)
    if project_id is not None:
        there = select(DataRecord.id).where(DataRecord.id == record_id, DataRecord.project_id == project_id)
        if await session.scalar(there) is None:
            raise UnratableRecord(f"record {record_id} does not exist in this project")
    new = insert(LikertScore).values(
        record_id=record_id, user_id=given.user, realism_score=given.realism, quality_score=given.quality
    )
    upsert = new.on_conflict_do_update(
        index_elements=[LikertScore.record_id, LikertScore.user_id],
        index_where=text('"llmModel" IS NULL'),
        set_={"realismScore": given.realism, "qualityScore": given.quality},
    ).returning(LikertScore.id)
    try:
        async with session.begin_nested(), acting(session, actor):
            return (await session.execute(upsert)).scalar_one()
    except IntegrityError as error:
        raise UnratableRecord(f"record {record_id} does not exist") from error


async def list_ratings(
    session: AsyncSession,
    project_id: UUID,
    *,
    limit: int = 100,
    excerpt_chars: int = 80,
    after: tuple[datetime, UUID] | None = None,
) -> list[RatingView]:
    """Return a project's newest ratings, by people and models.

    ``after`` is the time and the id of the last one of the page before.
    """
    newest = (
        select(
            LikertScore.id,
            LikertScore.record_id,
            DataRecord.type,
            func.left(DataRecord.content, excerpt_chars).label("excerpt"),
            LikertScore.user_id,
            LikertScore.llm_model,
            LikertScore.realism_score,
            LikertScore.quality_score,
            LikertScore.updated_at,
        )
        .join(DataRecord, DataRecord.id == LikertScore.record_id)
        .where(DataRecord.project_id == project_id)
        .order_by(LikertScore.updated_at.desc(), LikertScore.id.desc())
        .limit(limit)
    )
    if after is not None:
        newest = newest.where(tuple_(LikertScore.updated_at, LikertScore.id) < after)
    return [
        RatingView(
            row.id,
            row.record_id,
            row.type,
            " ".join(row.excerpt.split()),
            row.user_id,
            row.llm_model,
            is_rule_based(row.llm_model or ""),
            row.realism_score,
            row.quality_score,
            row.updated_at,
        )
        for row in await session.execute(newest)
    ]


def _valid(**given: Any) -> Rating:
    try:
        return Rating.model_validate(given)
    except ValidationError as error:
        raise RatingError(first_problem(error, whole="rating")) from None
