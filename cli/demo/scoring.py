"""Put profiles and their scoring jobs into the database, follow the jobs, and read what came of them."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select, text

from cli.connection import connected
from cli.demo.profiles import NewProfile
from cli.errors import CommandError
from models.scoring import SCORING, Profile, ScoringJob
from workers.runtime.database import Database, Raw
from workers.runtime.enqueue import enqueue_many
from workers.runtime.store.intervene import cancel

STAGE = "scoring.score"
STALLED_SECONDS = 120.0
_LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the jobs of one round are; ``cached`` ones were answered without asking again."""

    total: int
    completed: int = 0
    failed: int = 0
    cached: int = 0
    retries: int = 0

    @property
    def ended(self) -> int:
        return self.completed + self.failed


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


async def put_profiles(database: Database, profiles: Sequence[NewProfile]) -> list[UUID]:
    """Return the ids of ``profiles``, in their order; one that is there word for word is not written twice."""
    async with database.session() as session:
        columns = select(Profile.id, Profile.name, Profile.attributes)
        names = {profile.name for profile in profiles}
        there = await session.execute(columns.where(Profile.owner_id.is_(None), Profile.name.in_(names)))
        known = {_key(name, attributes): id_ for id_, name, attributes in there}
        missing = {_key(one.name, one.attributes): one for one in profiles}
        new = [(key, one) for key, one in missing.items() if key not in known]
        if new:
            rows = [{"name": one.name, "attributes": dict(one.attributes)} for _, one in new]
            written = await session.scalars(insert(Profile).returning(Profile.id, sort_by_parameter_order=True), rows)
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
    """Return when all of these jobs have ended, showing progress; given up before, the others are cancelled.

    ``check`` is called at each look and may raise. Raises CommandError if nothing moves for two minutes, with what
    the jobs wait for.
    """
    async with connected(database_url) as conn:
        try:
            await _follow(conn, job_ids, show, check)
        except BaseException:
            with suppress(Exception):  # the first error is the one to tell
                await cancel(conn, ScoringJob, job_ids, reason="the demonstration was ended")
            raise


async def _follow(
    conn: Raw, job_ids: Sequence[UUID], show: Callable[[Progress], None], check: Callable[[], None]
) -> None:
    loop = asyncio.get_running_loop()
    seen, moved_at = Progress(len(job_ids)), loop.time()
    while seen.ended < seen.total:
        now = await _progress(conn, job_ids)
        if now != seen:
            seen, moved_at = now, loop.time()
        show(seen)
        check()
        if loop.time() - moved_at > STALLED_SECONDS:
            raise CommandError(f"nothing moved for {STALLED_SECONDS:.0f} s; {await _waits(conn, job_ids)}")
        await asyncio.sleep(_LOOK_SECONDS)


async def _progress(conn: Raw, job_ids: Sequence[UUID]) -> Progress:
    cursor = await conn.execute(
        """SELECT count(*) FILTER (WHERE status = %(completed)s),
                  count(*) FILTER (WHERE status IN ('failed', 'cancelled')),
                  count(*) FILTER (WHERE llm_response ? 'cached_from'), coalesce(sum(retry_count), 0)::int
             FROM scoring.scoring_jobs WHERE id = ANY (%(ids)s)""",
        {"ids": list(job_ids), "completed": SCORING.completed},
    )
    return Progress(len(job_ids), *(await cursor.fetchone() or ()))


async def _waits(conn: Raw, job_ids: Sequence[UUID]) -> str:
    cursor = await conn.execute("SELECT wait_reason FROM runtime.jobs WHERE id = ANY (%s)", [list(job_ids)])
    reasons = Counter(reason for (reason,) in await cursor.fetchall() if reason)
    return "; ".join(f"{count} jobs: {reason}" for reason, count in reasons.most_common(3)) or "all of them run"


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
