"""Single runs of an analysis without a mill: what they return or raise, with a clock of the test."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from models.operations import AnalyticsJob
from tests.support.kernel import Jobs
from workers.analytics.align_project import align_project
from workers.runtime.handler.context import CheckpointWrite, Context, Run
from workers.runtime.handler.outcomes import Outcome
from workers.runtime.handler.ports import LanguageModel
from workers.runtime.handler.resources import Resources
from workers.runtime.store.checkpoint import checkpoint

STAGE = "analytics.align"


class Runs:
    """Single runs of analyses, claimed and settled by the kernel's statements, with a clock of the test."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def claim(self) -> list[AnalyticsJob]:
        """Claim every analysis that is ready and due, the oldest first."""
        await self._jobs.sql("UPDATE operations.analytics_jobs SET due_at = NULL WHERE due_at <= now()")
        claimed = [job for job in await self._jobs.running(STAGE, 0) if isinstance(job, AnalyticsJob)]
        return sorted(claimed, key=lambda job: job.id)

    async def perform(
        self, job: AnalyticsJob, llm: LanguageModel, *, clock: Callable[[], datetime] | None = None
    ) -> Outcome:
        """Return the outcome of one run; raise what it raises."""
        database = self._jobs.database

        async def keep(values: Mapping[str, Any], write: CheckpointWrite | None = None) -> None:
            async with database.session() as session:
                assert await checkpoint(session, AnalyticsJob, (job.id, job.version), values)
                if write and (found := await write(session)):
                    await checkpoint(session, AnalyticsJob, (job.id, job.version), found)

        async def progress(_percent: int) -> None:
            raise NotImplementedError

        def began() -> datetime:
            assert job.started_at
            return job.started_at

        context = Context(
            run=Run(STAGE, job.id, job.version, job.retry_count + 1),
            resources=Resources(llm=llm),
            session=database.session,
            progress=progress,
            checkpoint=keep,
            clock=clock or began,
        )
        return await align_project(job, context)

    async def settle(self, job: AnalyticsJob, outcome: Outcome) -> None:
        """Settle a run, and make a snoozed job due at once."""
        assert await self._jobs.settle(job, outcome, STAGE)
        await self._jobs.sql("UPDATE operations.analytics_jobs SET due_at = now() WHERE due_at IS NOT NULL")
