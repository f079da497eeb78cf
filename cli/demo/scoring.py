"""Put profiles and their scoring jobs into the database, follow the jobs, and read what came of them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select, text

from cli.demo.following import Progress, follow
from cli.demo.profiles import NewProfile
from models.scoring import SCORING, Profile, ScoringJob
from workers.runtime.database import Database, Raw
from workers.runtime.enqueue import enqueue_many

STAGE = "scoring.score"


@dataclass(frozen=True, slots=True)
class Scored:
    """One job of a round at its end."""

    name: str
    status: str
    score: dict[str, Any] | None
    cached: bool
    retries: int
    error: str | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime


async def put_profiles(
    database: Database, profiles: Sequence[NewProfile], *, made: Callable[[Sequence[UUID]], None]
) -> list[UUID]:
    """Return the ids of ``profiles``, in their order; one that is there word for word is not written twice.

    ``made`` is told the ids of the new ones.
    """
    async with database.session() as session:
        columns = select(Profile.id, Profile.name, Profile.attributes)
        names = {profile.name for profile in profiles}
        there = await session.execute(columns.where(Profile.owner_id.is_(None), Profile.name.in_(names)))
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


async def enqueue_round(database: Database, profile_ids: Sequence[UUID], prompt: str) -> list[UUID]:
    """Enqueue one scoring job per profile, in one transaction; return their ids."""
    async with database.session() as session:
        jobs = [{"profile_id": str(profile_id), "prompt": prompt} for profile_id in profile_ids]
        return [job.id for job in await enqueue_many(session, STAGE, jobs)]


async def follow_round(
    database_url: str, job_ids: Sequence[UUID], show: Callable[[Progress], None], *, check: Callable[[], None]
) -> None:
    """Return when all of these jobs have ended; see :func:`cli.demo.following.follow`."""
    await follow(database_url, ScoringJob, job_ids, lambda conn: _progress(conn, job_ids), show=show, check=check)


async def _progress(conn: Raw, job_ids: Sequence[UUID]) -> Progress:
    cursor = await conn.execute(
        """SELECT count(*) FILTER (WHERE status = %(completed)s),
                  count(*) FILTER (WHERE status IN ('failed', 'cancelled')),
                  count(*) FILTER (WHERE llm_response ? 'cached_from'), coalesce(sum(retry_count), 0)::int
             FROM scoring.scoring_jobs WHERE id = ANY (%(ids)s)""",
        {"ids": list(job_ids), "completed": SCORING.completed},
    )
    completed, failed, cached, retries = await cursor.fetchone() or (0, 0, 0, 0)
    return Progress(len(job_ids), completed, failed, cached, retries, done=completed + failed == len(job_ids))


async def outcome(database: Database, job_ids: Sequence[UUID]) -> list[Scored]:
    """Return the jobs of a round as they ended."""
    async with database.session() as session:
        rows = await session.execute(
            select(
                Profile.name,
                ScoringJob.status,
                ScoringJob.parsed_score,
                ScoringJob.llm_response.op("?")(text("'cached_from'")).label("cached"),
                ScoringJob.retry_count,
                ScoringJob.error_message,
                ScoringJob.created_at,
                ScoringJob.started_at,
                ScoringJob.completed_at,
            )
            .join(Profile, Profile.id == ScoringJob.profile_id)
            .where(ScoringJob.id.in_(job_ids))
        )
        return [Scored(name, status, score, bool(cached), *rest) for name, status, score, cached, *rest in rows]
