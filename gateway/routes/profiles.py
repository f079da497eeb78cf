"""Profiles: add, list, show and score them."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field

from gateway.bodies import Route
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import actor_of, session_of
from gateway.cursors import Listing
from gateway.headers import IdempotencyKey
from gateway.parameters import Body, JobOptions, JsonObject, Paging, Text
from gateway.started_jobs import REPEATED, StartedJob, answer_job, mark_created
from gateway.views import Page
from workers.scoring import profiles
from workers.scoring.profiles import MAX_PROFILE_NAME_CHARACTERS, ProfileView
from workers.scoring.rounds import STAGE

router = APIRouter(prefix="/v1/profiles", tags=["scoring"], route_class=Route)
Reader = Annotated[Caller, Depends(require("scoring:read"))]
Writer = Annotated[Caller, Depends(require("scoring"))]


class NewProfile(Body):
    """A profile to add."""

    name: Text = Field(min_length=1, max_length=MAX_PROFILE_NAME_CHARACTERS, examples=["Ada Lovelace"])
    attributes: JsonObject = Field({}, examples=[{"skills": ["mathematics"]}])


class Scoring(JobOptions):
    """What to judge, and the options of the job."""

    prompt: Text = Field(
        min_length=1, max_length=100_000, description="a text, with criteria below it if you want", examples=["Judge."]
    )
    model_name: Text | None = Field(None, min_length=1, max_length=50, description="unset: the configured model")


@router.get("", operation_id="list_profiles", summary="List profiles, newest first")
async def list_(request: Request, caller: Reader, paging: Annotated[Paging, Query()]) -> Page[ProfileView]:
    """Each with its latest score, from 0 to 100."""
    listing = Listing(request, caller, paging)
    async with session_of(request, caller) as session:
        found = await profiles.list_profiles(session, limit=listing.wanted, after=listing.after_id())
    return listing.page(found, lambda one: one.id)


@router.post(
    "",
    operation_id="add_profile",
    summary="Add a profile",
    status_code=201,
    responses={200: {"description": "the caller has this profile already"}},
)
async def add(request: Request, response: Response, caller: Writer, body: NewProfile) -> ProfileView:
    """A profile that exists with the same name and attributes is not added again."""
    new = profiles.new_profile(body.name, body.attributes)
    async with session_of(request, caller) as session:
        found, created = await profiles.add_profile(session, new, actor=actor_of(request, caller))
    response.headers["Location"] = f"/v1/profiles/{found.id}"
    mark_created(response, created=created)
    return found


@router.get("/{profile_id}", operation_id="get_profile", summary="Show a profile with its latest score")
async def get(request: Request, caller: Reader, profile_id: UUID) -> ProfileView:
    async with session_of(request, caller) as session:
        return await profiles.find_profile(session, str(profile_id))


@router.post(
    "/{profile_id}/score",
    operation_id="score_profile",
    summary="Enqueue a job that scores a profile",
    status_code=201,
    responses=REPEATED,
)
async def score(
    request: Request, response: Response, *, caller: Writer, profile_id: UUID, body: Scoring, key: IdempotencyKey
) -> StartedJob:
    """The job's result has `parsed_score`: the sum and each criterion with its reasoning and evidence."""
    given: dict[str, Any] = {"model_name": body.model_name} | body.given(request, key)
    actor = actor_of(request, caller)
    async with session_of(request, caller) as session:
        job = await profiles.score_profile(session, profile_id, body.prompt, actor=actor, **given)
    return answer_job(response, job, STAGE)
