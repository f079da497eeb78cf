"""Follow the scoring jobs of one round to their end."""

from collections.abc import Callable, Sequence
from uuid import UUID

from cli.demo.following import StepProgress, follow_jobs
from workers.runtime.database import Raw
from workers.scoring.rounds import round_progress


async def follow_round(
    database_url: str, job_ids: Sequence[UUID], show: Callable[[StepProgress], None], *, check: Callable[[], None]
) -> None:
    """Return when all of these jobs have ended; see :func:`cli.demo.following.follow_jobs`."""

    async def load_progress(conn: Raw) -> StepProgress:
        seen = await round_progress(conn, job_ids)
        done = seen.completed + seen.failed == len(job_ids)
        return StepProgress(len(job_ids), seen.completed, seen.failed, seen.cached, seen.retries, done=done)

    await follow_jobs(database_url, job_ids, load_progress, show=show, check=check)
