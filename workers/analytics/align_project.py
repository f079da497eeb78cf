"""The handler of ``analytics.align``: every record of a project against its guidelines, then what they say together."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, StringConstraints
from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import AnalyticsJob, Project
from models.scoring import DEFAULT_MODEL
from workers.analytics import summary
from workers.analytics.alignment import AlignmentAnswer, Finished, Record, Unjudged, ask, error_of, judgement
from workers.analytics.analysis_statements import (
    TURN,
    AnalysedRecords,
    AnalysisProgress,
    ahead,
    keep,
    look_alone,
    tally,
    unfinished,
)
from workers.analytics.guidelines import load
from workers.analytics.offline_rules import align_by_rule
from workers.analytics.pdf import decoded
from workers.analytics.retrieval import Asked, Retrieval
from workers.longrun.held_failures import HeldFailures
from workers.longrun.in_flight import InFlight
from workers.longrun.long_run import LongRun, OthersTurn
from workers.longrun.retrying import with_retries
from workers.runtime.database import retry_while_away
from workers.runtime.handler.context import Context
from workers.runtime.handler.errors import Permanent, RateLimited, Unavailable
from workers.runtime.handler.outcomes import Complete, Outcome
from workers.runtime.handler.registry import stage

JUDGED_AT_ONCE = 100
_Judging = InFlight[Asked, Finished]


class AlignRequest(BaseModel):
    """What the doors accept for ``analytics.align``; the fields are columns of ``analytics_jobs``.

    Without ``type`` it is about all records; without ``model_name`` the configured default model answers.
    """

    model_config = ConfigDict(extra="forbid")

    project_id: UUID
    type: Literal["TASK", "FEEDBACK"] | None = None
    model_name: (
        Annotated[str, StringConstraints(max_length=255, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/@+-]*$")] | None
    ) = None


@stage("analytics.align", of=AnalyticsJob, payload=AlignRequest, timeout=timedelta(hours=6))
async def align_project(job: AnalyticsJob, ctx: Context) -> Outcome:
    """Judge and rate every record of a project, and write the reports on them to the project.

    Judgements are committed as they come, and another run goes on with the rest. A record that cannot be judged is
    listed with its reason and delays no other. No transaction is open while a model answers. Analyses of the same
    records take turns, so that a record's judgement and ratings come from one job. The job waits for a provider that is
    away. A run that has little time left leaves the rest to the next run. Neither spends an attempt.
    """
    run = _Run(job, ctx)
    return await run.long.perform(run.perform, done=run.count_done)


class _Run:
    """One run of one job: what it is about, how far it is, what it leaves the next one."""

    def __init__(self, job: AnalyticsJob, ctx: Context) -> None:
        self._ctx = ctx
        self._scope = AnalysedRecords.of(job)
        self._model = job.model_name or DEFAULT_MODEL
        self._begun = job.processed_count > 0
        self._done = AnalysisProgress(job.total_records, job.processed_count - job.failed_count, job.failed_count)
        self._warnings: dict[str, Any] = dict(job.warnings or {})
        self._read: dict[UUID, bytes] = {}
        self.long = LongRun(ctx, notes=job.resume_at, deadline=job.deadline_at)

    async def perform(self) -> Outcome:
        """Judge, then report; raise what stops the job, after what was paid for is committed."""
        async with self._ctx.session() as session:
            await self._await_turn(session)
            project = await _project(session, self._scope.project_id)
            self._done = await tally(session, self._scope)
        # Said before anything is asked, even of an empty project.
        pdf = await asyncio.to_thread(decoded, project.guidelines, project=project.name)
        if not self._done.total:
            return Complete(values=self._done.values())
        await self._ctx.llm.resolve(self._model)
        await self._ctx.checkpoint({}, self._take_turn)
        if self._done.finished < self._done.total:
            guidelines = await load(self._ctx, pdf)
            await self._warn(guidelines.warning)
            await self._judge_all(Retrieval(self._ctx, guidelines))
        warning = self._warnings.get("guidelines")
        await summary.report(
            self._ctx, self._scope, self.long, project=project.name, model=self._model, warning=warning
        )
        return Complete(values=self._done.values())

    async def _warn(self, of_guidelines: str | None) -> None:
        """Keep what the job's reader must know of the guidelines."""
        if of_guidelines and self._warnings.get("guidelines") != of_guidelines:
            self._warnings["guidelines"] = of_guidelines
            await self.long.keep({"warnings": self._warnings})

    def count_done(self) -> int:
        """Return how many of the job's records are finished, as far as this run knows."""
        return self._done.finished

    # ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _await_turn(self, session: AsyncSession) -> None:
        if before := await ahead(session, self._scope, begun=self._begun):
            raise OthersTurn(f"waits for analysis {before} of the same records", delay=TURN)

    async def _take_turn(self, session: AsyncSession) -> dict[str, Any]:
        """Return what tells the others that it is this run's turn, if it still is: two do not find it at once."""
        await look_alone(session, self._scope)
        await self._await_turn(session)
        self.long.notes["turn"] = self._ctx.run.version
        return {**self._done.values(), "progress": self._done.percent, "resume_at": self.long.notes}

    # ── judge ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _judge_all(self, retrieval: Retrieval) -> None:
        """Judge until nothing is left, including what an ingestion adds meanwhile."""
        while self._done.finished < self._done.total:
            await self._judge_some(retrieval)
            async with self._ctx.session() as session:
                self._done = await tally(session, self._scope)

    async def _judge_some(self, retrieval: Retrieval) -> None:
        """Judge once what is not finished."""
        failures = HeldFailures(error_of, succeeded=self._done.judged > 0)
        async with _Judging(self._asked(retrieval), self._judge, at_once=JUDGED_AT_ONCE) as judging:
            async for group in judging.groups():
                await self._keep(failures.sift(group))
                failures.raise_if_many()
        await self._keep(failures.rest())

    async def _asked(self, retrieval: Retrieval) -> AsyncGenerator[Asked]:
        """Yield every unfinished record, page by page, with the passages nearest to it; raise TimeIsUp."""
        after: UUID | None = None
        while page := await retry_while_away(partial(self._page, after, retrieval.guidelines.embedding_model)):
            after = page[-1][0].id
            async with aclosing(retrieval.of(page)) as found:
                async for asked in found:
                    self.long.require_time()
                    yield asked

    async def _page(self, after: UUID | None, embedding_model: str) -> list[tuple[Record, list[float] | None]]:
        async with self._ctx.session() as session:
            page = await unfinished(session, self._scope, after=after, embedding_model=embedding_model)
        self._read.update((record.id, record.content_hash) for record, _ in page)
        return page

    async def _judge(self, asked: Asked, judging: _Judging) -> None:
        """Deliver the judgement of one record, or why there is none; raise what any other record would meet, too."""
        await judging.deliver(await self._judgement(asked))

    async def _judgement(self, asked: Asked) -> Finished:
        record, found = asked.record, asked.found
        if isinstance(found, Exception):
            return Unjudged(record.id, found)
        messages = ask(record, found)
        parse = partial(self._ctx.llm.parse, messages, into=AlignmentAnswer, model=self._model, offline=align_by_rule)
        try:
            return judgement(record, found, await with_retries(parse))
        except RateLimited:
            raise
        except Exception as error:
            if isinstance(error, Unavailable) and (error.certain or error.paused):
                raise  # whatever else is asked would fail alike
            # Listed with the record, or the job's if they are all alike
            return Unjudged(record.id, error)

    async def _keep(self, finished: Sequence[Finished]) -> None:
        """Commit what is finished together with the job's counts. Ends this run if it was cancelled or taken."""
        if not finished:
            return
        self._done.add(finished)
        values = {**self._done.values(), "progress": self._done.percent}
        write = partial(keep, scope=self._scope, finished=finished, read=self._read)
        await self.long.keep(values, write, items=len(finished))
        for one in finished:
            self._read.pop(one.record_id, None)


async def _project(session: AsyncSession, project_id: UUID) -> Row[str, str | None]:
    wanted = select(Project.name, Project.guidelines).where(Project.id == project_id)
    found = (await session.execute(wanted)).one_or_none()
    if found is None:
        raise Permanent(f"project {project_id} no longer exists")
    return found
