"""Profiles as people hand them in: written once, found again by name and content, deleted with their jobs."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.scoring import Profile, ScoringAnswer, ScoringJob
from workers.runtime.actor import NOBODY, Actor, acting


@dataclass(frozen=True, slots=True)
class NewProfile:
    """A name and what is known beside it, ready for ``scoring.profiles``."""

    name: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RemovedProfiles:
    """How many profiles and how many scoring jobs were deleted."""

    profiles: int
    jobs: int


async def put_profiles(
    session: AsyncSession,
    profiles: Sequence[NewProfile],
    *,
    made: Callable[[Sequence[UUID]], None] = lambda _: None,
    actor: Actor = NOBODY,
) -> list[UUID]:
    """Return the ids of ``profiles``, in their order. A profile that exists with the same content is not written twice.

    ``made`` is told the ids of the new ones before the transaction ends.
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
    """Delete these profiles and these jobs, with the answers of the jobs; whatever runs of them ends.

    The jobs' history stays. A job may be of a profile that is not deleted.
    """
    unfinished = or_(ScoringJob.id.in_(job_ids), ScoringJob.profile_id.in_(profile_ids))
    cancelled = func.runtime.cancel(ScoringJob.id, "removed with its profile")
    async with acting(session, actor):
        # Their history, which stays, says so: a job without an end counts as lost.
        await session.execute(select(cancelled).where(unfinished, ScoringJob.completed_at.is_(None)))
        # Jobs first: those of profiles that go take theirs along, and would not be counted.
        jobs = await session.scalars(delete(ScoringJob).where(ScoringJob.id.in_(job_ids)).returning(ScoringJob.id))
        count = len(jobs.all())
        gone = await session.scalars(delete(Profile).where(Profile.id.in_(profile_ids)).returning(Profile.id))
        await session.execute(delete(ScoringAnswer).where(ScoringAnswer.job_id.in_(job_ids)))
        return RemovedProfiles(len(gone.all()), count)
