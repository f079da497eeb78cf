"""Follow the scoring jobs of one round to their end."""

from collections.abc import Callable, Sequence
from uuid import UUID

from cli.demo.following import Progress, follow
from models.scoring import ScoringJob
from workers.runtime.database import Raw
from workers.scoring.rounds import round_progress


async def follow_round(
    database_url: str, job_ids: Sequence[UUID], show: Callable[[Progress], None], *, check: Callable[[], None]
) -> None:
    """Return when all of these jobs have ended; see :func:`cli.demo.following.follow`."""

    async def look(conn: Raw) -> Progress:
        seen = await round_progress(conn, job_ids)
        done = seen.completed + seen.failed == len(job_ids)
        return Progress(len(job_ids), seen.completed, seen.failed, seen.cached, seen.retries, done=done)

    await follow(database_url, ScoringJob, job_ids, look, show=show, check=check)
