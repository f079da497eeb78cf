"""Score many profiles with one prompt: enqueue the jobs, read their progress and their results."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from models.scoring import SCORING, Profile, ScoringJob
from workers.runtime.actor import NOBODY, Actor, acting
from workers.runtime.database import Raw
from workers.runtime.enqueue import enqueue_many

STAGE = "scoring.score"


@dataclass(frozen=True, slots=True)
class RoundProgress:
    """How many jobs are completed, how many failed or were cancelled, how many reused an answer, and all retries."""

    completed: int
    failed: int
    cached: int
    retries: int


@dataclass(frozen=True, slots=True)
class Scored:
    """One ended job of a round."""

    name: str
    status: str
    score: dict[str, Any] | None
    cached: bool
    retries: int
    error: str | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime


async def enqueue_round(
    session: AsyncSession, profile_ids: Sequence[UUID], prompt: str, *, actor: Actor = NOBODY
) -> list[UUID]:
    """Enqueue one scoring job per profile; return their ids in the order of the profiles."""
    jobs = [{"profile_id": str(profile_id), "prompt": prompt} for profile_id in profile_ids]
    async with acting(session, actor):
        return [job.id for job in await enqueue_many(session, STAGE, jobs)]


async def round_progress(conn: Raw, job_ids: Sequence[UUID]) -> RoundProgress:
    """Return the progress of these jobs."""
    cursor = await conn.execute(
        """SELECT count(*) FILTER (WHERE status = %(completed)s),
                  count(*) FILTER (WHERE status IN ('failed', 'cancelled')),
                  count(*) FILTER (WHERE llm_response ? 'cached_from'), coalesce(sum(retry_count), 0)::int
             FROM scoring.scoring_jobs WHERE id = ANY (%(ids)s)""",
        {"ids": list(job_ids), "completed": SCORING.completed},
    )
    return RoundProgress(*(await cursor.fetchone() or (0, 0, 0, 0)))


async def round_outcome(session: AsyncSession, job_ids: Sequence[UUID]) -> list[Scored]:
    """Return the results of these jobs."""
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
