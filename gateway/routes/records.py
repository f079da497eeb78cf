"""The records of a project: list, show, review, rate, find similar ones."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field

from gateway.bodies import Route
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import actor_of, session_of
from gateway.cursors import Listing
from gateway.limits import without_place
from gateway.parameters import Body, Filters, Flag, Id, Name, Paging, RecordCategory, RecordType, Text, Whole
from gateway.problems import HttpProblem
from gateway.resources import services_of
from gateway.views import Page, View
from workers.analytics import agreement
from workers.analytics.agreement import Comparison
from workers.analytics.ratings import RatingView, list_ratings, rate
from workers.operations import projects, record_review
from workers.operations.record_review import GivenScore, RecordView, as_category, as_type
from workers.runtime.refusals import Problem
from workers.vectorization import similar as search
from workers.vectorization.similar import Match

router = APIRouter(prefix="/v1/projects/{project_id}", tags=["operations"], route_class=Route)
Reader = Annotated[Caller, Depends(require("operations:read"))]
Writer = Annotated[Caller, Depends(require("operations"))]
MAX_REVIEWED, MAX_SIMILAR = 1_000, 200


class RecordFilter(Paging):
    """Which records are listed."""

    type: RecordType | None = None
    category: RecordCategory | None = None
    reviewed: Flag | None = None


class Record(View):
    """A record with the length of its vector and its ratings, oldest first."""

    record: RecordView
    dimensions: int = Field(description="the length of its vector; 0: it waits for vectorization")
    scores: Sequence[GivenScore]


class Review(Body):
    """The review of records. A later one replaces an earlier one."""

    record_ids: list[Id] = Field(min_length=1, max_length=MAX_REVIEWED)
    is_category_correct: bool | None = Field(None, description="only for records with a category")
    reviewer: Name | None = Field(None, description="unset, or written by a user's key: the caller")


class Reviewed(View):
    """The records that were reviewed."""

    record_ids: list[UUID]


class NewRating(Body):
    """A person's rating of a record, in place of an earlier one of the same person."""

    record_id: Id
    realism: int = Field(ge=1, le=7, description="1 nobody would write this … 7 exactly what a person writes")
    quality: int = Field(ge=1, le=7, description="1 useless … 7 exemplary")
    user: Name | None = Field(None, description="who rates; unset: the caller's user, who cannot rate for others")


class StoredRating(View):
    """A rating that was stored."""

    id: UUID
    record_id: UUID
    user: str
    realism: int
    quality: int


class SimilarFilter(Filters):
    """What the records are compared with: a text or a record."""

    text: Text | None = Field(None, min_length=1, max_length=8_000)
    record: UUID | None = Field(None, description="id of a record that has a vector")
    type: RecordType | None = None
    category: RecordCategory | None = None
    limit: Whole = Field(10, ge=1, le=MAX_SIMILAR)
    exact: Flag = Field(False, description="compare with every record, without the index")


class Matches(View):
    """The most similar records, best first. Only vectors of one model are compared."""

    items: Sequence[Match]
    embedding_model: str | None = Field(None, description="the model of the vectors; null: nothing was found")


class TypeFilter(Filters):
    """Which records count."""

    type: RecordType | None = None


@router.get("/records", operation_id="list_records", summary="List the records of a project, newest first")
async def list_(
    request: Request, caller: Reader, project_id: UUID, wanted: Annotated[RecordFilter, Query()]
) -> Page[RecordView]:
    """Long contents are cut, and large documents are replaced by their size: show one record to see all of it."""
    listing = Listing(request, caller, wanted)
    async with session_of(request, caller) as session:
        await projects.find_by_id(session, project_id)
        found = await record_review.list_records(
            session,
            project_id=project_id,
            type_=wanted.type,
            category=wanted.category,
            reviewed=wanted.reviewed,
            limit=listing.wanted,
            after=listing.after_id(),
        )
    return listing.page(found, lambda one: one.id)


@router.get("/records/{record_id}", operation_id="get_record", summary="Show a record with its ratings")
async def get(request: Request, caller: Reader, project_id: UUID, record_id: UUID) -> Record:
    async with session_of(request, caller) as session:
        return Record.model_validate(await record_review.show(session, record_id, project_id=project_id))


@router.post("/records/review", operation_id="review_records", summary="Mark records as reviewed, all or none")
async def review(request: Request, caller: Writer, project_id: UUID, body: Review) -> Reviewed:
    async with session_of(request, caller) as session:
        done = await record_review.review(
            session,
            body.record_ids,
            reviewer=body.reviewer or str(caller.user_id or caller.name),
            is_category_correct=body.is_category_correct,
            project_id=project_id,
            actor=actor_of(request, caller),
        )
    return Reviewed(record_ids=sorted(done))


@router.get(
    "/similar", operation_id="find_similar_records", summary="Find the records most similar to a text or a record"
)
async def similar(
    request: Request, caller: Reader, project_id: UUID, wanted: Annotated[SimilarFilter, Query()]
) -> Matches:
    """By the cosine of their vectors. The model that embeds records embeds the text too."""
    if (wanted.text is None) == (wanted.record is None):
        problem = Problem("text", "or record must be given, one of the two")
        raise HttpProblem("invalid", str(problem), errors=[problem])
    async with session_of(request, caller) as session:  # before anything is paid for
        await projects.find_by_id(session, project_id)
    if wanted.text is None:
        to: Any = wanted.record
    else:
        async with without_place(request):
            to = await search.embed_text(services_of(request).model, wanted.text)
    async with session_of(request, caller) as session:
        found = await search.similar(
            session,
            to=to,
            project_id=project_id,
            type_=as_type(wanted.type),
            category=as_category(wanted.category),
            limit=wanted.limit,
            exact=wanted.exact,
        )
    return Matches(items=found, embedding_model=found[0].record.embedding_model if found else None)


@router.get("/ratings", operation_id="list_ratings", summary="List the ratings by people and models, newest first")
async def ratings(
    request: Request, caller: Reader, project_id: UUID, paging: Annotated[Paging, Query()]
) -> Page[RatingView]:
    listing = Listing(request, caller, paging)
    async with session_of(request, caller) as session:
        await projects.find_by_id(session, project_id)
        found = await list_ratings(session, project_id, limit=listing.wanted, after=listing.after_time())
    return listing.page(found, lambda one: (one.updated_at, one.id))


@router.post("/ratings", operation_id="rate_record", summary="Rate a record as a person")
async def add_rating(request: Request, caller: Writer, project_id: UUID, body: NewRating) -> StoredRating:
    """A second rating of a record by the same person replaces the first."""
    user = body.user or (str(caller.user_id) if caller.user_id else None)
    if user is None:
        problem = Problem("user", "is required: the key acts for no user", "nothing")
        raise HttpProblem("invalid", str(problem), errors=[problem])
    given = {"realism": body.realism, "quality": body.quality}
    actor = actor_of(request, caller)
    async with session_of(request, caller) as session:
        await projects.find_by_id(session, project_id)
        id_ = await rate(session, body.record_id, user, project_id=project_id, actor=actor, **given)
    return StoredRating(id=id_, record_id=body.record_id, user=user, **given)


@router.get(
    "/ratings/comparison",
    operation_id="compare_ratings",
    summary="Compare the ratings of each model with those of people",
)
async def compare(
    request: Request, caller: Reader, project_id: UUID, wanted: Annotated[TypeFilter, Query()]
) -> Comparison:
    """Mean difference, agreement and weighted kappa. Ratings by rules are listed, but not in the averages."""
    async with session_of(request, caller) as session:
        await projects.find_by_id(session, project_id)
        pairs = await agreement.pairs_of(session, project_id, type_=as_type(wanted.type))
    return await asyncio.to_thread(agreement.compare, pairs)
