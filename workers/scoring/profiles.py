"""Add profiles, list them, find them by name or id, score them, and delete them with their jobs."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, insert, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from models.scoring import Profile, ScoringJob
from workers.runtime.actor import NOBODY, Actor, acting
from workers.runtime.enqueue import Enqueued, enqueue
from workers.runtime.handler.documents import Unkeepable, keepable
from workers.runtime.handler.naming import check_name, nfc
from workers.runtime.refusals import NotFound, Problem, Refusal, quoted
from workers.scoring.rounds import STAGE, enqueue_round

MAX_PROFILE_NAME_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class NewProfile:
    """A checked name and attributes, ready for ``scoring.profiles``."""

    name: str
    attributes: Mapping[str, Any]


class InvalidProfile(Refusal, ValueError):
    """A profile, or a request about it, breaks a rule."""


class UnknownProfile(NotFound):
    """The profile does not exist, or the actor may not see it."""


@dataclass(frozen=True, slots=True)
class ProfileView:
    """A profile with its latest score, 0 to 100, if one of its jobs completed."""

    id: UUID
    name: str
    owner_id: UUID | None
    attributes: Mapping[str, Any]
    created_at: datetime
    score: float | None


@dataclass(frozen=True, slots=True)
class RemovedProfiles:
    """How many profiles and how many scoring jobs were deleted."""

    profiles: int
    jobs: int


def new_profile(name: str, attributes: Mapping[str, Any]) -> NewProfile:
    """Return a profile that can be added; raise InvalidProfile if its name or attributes cannot be stored."""
    name = check_name("name", name, longest=MAX_PROFILE_NAME_CHARACTERS, error=InvalidProfile)
    try:
        keepable(attributes, name="attributes")
    except Unkeepable as error:
        raise InvalidProfile(error.said) from None
    return NewProfile(name, attributes)


async def add_profiles(
    session: AsyncSession, profiles: Sequence[NewProfile], *, actor: Actor = NOBODY
) -> Sequence[ProfileView]:
    """Add the new ones of these profiles with :func:`put_profiles`; return all of them in the given order."""
    ids = await put_profiles(session, profiles, actor=actor)
    async with acting(session, actor):
        views = {one.id: one for one in await _views(session, Profile.id.in_(ids))}
    return [views[id_] for id_ in ids]


async def add_profile(session: AsyncSession, profile: NewProfile, *, actor: Actor = NOBODY) -> tuple[ProfileView, bool]:
    """Add a profile with :func:`put_profiles`; return it, and whether it is new."""
    made: list[UUID] = []
    [id_] = await put_profiles(session, [profile], made=made.extend, actor=actor)
    async with acting(session, actor):
        [found] = await _views(session, Profile.id == id_)
    return found, bool(made)


async def list_profiles(
    session: AsyncSession, *, limit: int = 50, after: UUID | None = None, actor: Actor = NOBODY
) -> Sequence[ProfileView]:
    """Return up to ``limit`` profiles, newest first; ``after`` is the last id of the page before."""
    async with acting(session, actor):
        return await _views(session, Profile.id < after if after else true(), limit=limit)


async def find_profile(session: AsyncSession, name_or_id: str, *, actor: Actor = NOBODY) -> ProfileView:
    """Return the profile with that id or name; raise UnknownProfile, or InvalidProfile if several have the name."""
    is_it = Profile.name == nfc(name_or_id)
    with suppress(ValueError):
        is_it = Profile.id == UUID(name_or_id)
    async with acting(session, actor):
        found = await _views(session, is_it, limit=2)
    if not found:
        raise UnknownProfile(f"profile {quoted(name_or_id)} does not exist; `gristmill profiles list` shows them")
    if len(found) > 1:
        raise InvalidProfile(
            Problem("profile", "must be one; several have this name", quoted(name_or_id), "use its id")
        )
    return found[0]


async def score_profile(
    session: AsyncSession,
    profile_id: UUID,
    prompt: str,
    *,
    model_name: str | None = None,
    actor: Actor = NOBODY,
    **options: Any,
) -> Enqueued:
    """Enqueue one scoring job of a profile; ``options`` are those of :func:`workers.runtime.enqueue.enqueue`.

    Raise UnknownProfile, InvalidProfile without a prompt, EnqueueError.
    """
    if not prompt.strip():
        raise InvalidProfile(Problem("prompt", "must not be empty", quoted(prompt)))
    payload = {"profile_id": str(profile_id), "prompt": prompt}
    if model_name is not None:
        payload["model_name"] = model_name
    async with acting(session, actor):
        if await session.scalar(select(Profile.id).where(Profile.id == profile_id)) is None:
            raise UnknownProfile(f"profile {profile_id} does not exist (any more)")
        return await enqueue(session, STAGE, payload, **options)


async def score_profiles(
    session: AsyncSession, profile_ids: Sequence[UUID] | None, prompt: str, *, actor: Actor = NOBODY
) -> list[UUID]:
    """Enqueue one scoring job per profile; return the ids of the jobs. None scores all that the actor may see.

    Raise UnknownProfile if an id does not exist, InvalidProfile if there is no profile or no prompt.
    """
    if not prompt.strip():
        raise InvalidProfile(Problem("prompt", "must not be empty", quoted(prompt)))
    async with acting(session, actor):
        wanted = Profile.id.in_(profile_ids) if profile_ids is not None else true()
        there = (await session.scalars(select(Profile.id).where(wanted).order_by(Profile.id))).all()
    if missing := sorted(set(profile_ids or ()) - set(there)):
        raise UnknownProfile(f"profile {missing[0]} does not exist; `gristmill profiles list` shows them")
    if not there:
        raise InvalidProfile("there is no profile to score; `gristmill profiles add` makes one")
    return await enqueue_round(session, there if profile_ids is None else profile_ids, prompt, actor=actor)


async def _views(session: AsyncSession, wanted: ColumnElement[bool], *, limit: int | None = None) -> list[ProfileView]:
    last = (
        select(ScoringJob.parsed_score["overall"].as_float())
        .where(ScoringJob.profile_id == Profile.id, ScoringJob.status == ScoringJob.__lifecycle__.completed)
        .order_by(ScoringJob.completed_at.desc())
        .limit(1)
        .scalar_subquery()
    )
    query = select(Profile.id, Profile.name, Profile.owner_id, Profile.attributes, Profile.created_at, last)
    rows = await session.execute(query.where(wanted).order_by(Profile.id.desc()).limit(limit))
    return [ProfileView(*row) for row in rows]


async def put_profiles(
    session: AsyncSession,
    profiles: Sequence[NewProfile],
    *,
    made: Callable[[Sequence[UUID]], None] = lambda _: None,
    actor: Actor = NOBODY,
) -> list[UUID]:
    """Return the ids of ``profiles`` in the given order. A profile that exists with the same content is reused.

    ``made`` is called with the ids of the new ones before the transaction ends.
    """
    columns = select(Profile.id, Profile.name, Profile.attributes)
    names = {profile.name for profile in profiles}
    async with acting(session, actor):
        there = await session.execute(
            columns.where(Profile.owner_id.is_not_distinct_from(actor.user_id), Profile.name.in_(names))
        )
        known = {_key(name, attributes): id_ for id_, name, attributes in there}
        missing = {_key(one.name, one.attributes): one for one in profiles}
        new = [(key, one) for key, one in missing.items() if key not in known]
        if new:
            rows = [{"name": one.name, "attributes": dict(one.attributes)} for _, one in new]
            inserted = await session.scalars(insert(Profile).returning(Profile.id, sort_by_parameter_order=True), rows)
            written = inserted.all()
            made(written)
            known |= zip((key for key, _ in new), written, strict=True)
    return [known[_key(profile.name, profile.attributes)] for profile in profiles]


def _key(name: str, attributes: Any) -> tuple[str, str]:
    return name, json.dumps(attributes, sort_keys=True)


async def remove_profiles(
    session: AsyncSession, profile_ids: Sequence[UUID], *, job_ids: Sequence[UUID], actor: Actor = NOBODY
) -> RemovedProfiles:
    """Delete these profiles and jobs, and what was kept for the jobs. Unfinished jobs are cancelled first.

    The jobs' history stays. A job may belong to a profile that is not deleted.
    """
    unfinished = or_(ScoringJob.id.in_(job_ids), ScoringJob.profile_id.in_(profile_ids))
    cancelled = func.runtime.cancel(ScoringJob.id, "removed with its profile")
    async with acting(session, actor):
        # The history stays, and a job without an end in its history counts as lost.
        await session.execute(select(cancelled).where(unfinished, ScoringJob.completed_at.is_(None)))
        # Delete jobs first: deleting a profile also deletes its jobs, and these would not be counted.
        jobs = await session.scalars(delete(ScoringJob).where(ScoringJob.id.in_(job_ids)).returning(ScoringJob.id))
        count = len(jobs.all())
        gone = await session.scalars(delete(Profile).where(Profile.id.in_(profile_ids)).returning(Profile.id))
        return RemovedProfiles(len(gone.all()), count)
