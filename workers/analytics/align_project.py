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
from workers.analytics.alignment import AlignmentAnswer, Record, ask, judgement
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
from workers.analytics.crew import Crew, Doubt, Finished, Unjudged
from workers.analytics.guidelines import load
from workers.analytics.patience import patiently
from workers.analytics.pdf import decoded
from workers.analytics.retrieval import Asked, Retrieval
from workers.runtime.database import outlasting
from workers.runtime.handler.context import Context
from workers.runtime.handler.endurance import Outage, TimeIsUp, last_call
from workers.runtime.handler.errors import InvalidAnswers, Permanent, RateLimited, Retryable, Unavailable, describe
from workers.runtime.handler.outcomes import Complete, Outcome, Snooze
from workers.runtime.handler.registry import stage


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
    """Judge and rate every record of a project, and keep what they say together with the project.

    What is judged is committed as it comes: another run goes on with the rest. A record that cannot be judged is
    listed with its reason and keeps nobody waiting. No transaction is open while a model answers. Analyses of the same
    records take turns: a record's marks are those of one job. A provider that is away is waited for, and a run whose
    time is nearly up leaves the rest to the next, without an attempt spent.
    """
    run = _Run(job, ctx)
    try:
        return await run.perform()
    except _Waits as error:
        return Snooze(TURN, str(error))
    except TimeIsUp as error:
        return Snooze(timedelta(), str(error))
    except InvalidAnswers:
        raise
    except Retryable as error:
        return await run.outlast(error)


class _Waits(Exception):
    """It is another analysis's turn."""


class _Run:
    """One run of one job: what it is about, how far it is, what it leaves the next one."""

    def __init__(self, job: AnalyticsJob, ctx: Context) -> None:
        self._ctx = ctx
        self._scope = AnalysedRecords.of(job)
        self._model = job.model_name or DEFAULT_MODEL
        self._begun = job.processed_count > 0
        self._done = AnalysisProgress(job.total_records, job.processed_count - job.failed_count, job.failed_count)
        self._notes: dict[str, Any] = dict(job.resume_at or {})
        self._warnings: dict[str, Any] = dict(job.warnings or {})
        self._kept = 0
        self._read: dict[UUID, bytes] = {}
        self._last_call = last_call(job.deadline_at, ctx.clock())

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
            self._ctx, self._scope, self._notes, project=project.name, model=self._model, warning=warning
        )
        return Complete(values=self._done.values())

    async def _warn(self, of_guidelines: str | None) -> None:
        """Keep what the job's reader must know of the guidelines."""
        if of_guidelines and self._warnings.get("guidelines") != of_guidelines:
            self._warnings["guidelines"] = of_guidelines
            await outlasting(partial(self._ctx.checkpoint, {"warnings": self._warnings}))

    async def outlast(self, error: Retryable) -> Outcome:
        """Leave the provider alone for a while; raise ``error`` where patience ends with nothing done."""
        now = self._ctx.clock()
        outage = Outage.of(None if self._kept else self._notes.get("away"), done=self._done.finished, now=now)
        if (delay := outage.wait(now, error, patience=self._ctx.patience)) is None:
            raise error
        self._notes["away"] = outage.note()
        await outlasting(partial(self._ctx.checkpoint, {"resume_at": self._notes}))
        return Snooze(delay, describe(error))

    # ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _await_turn(self, session: AsyncSession) -> None:
        if before := await ahead(session, self._scope, begun=self._begun):
            raise _Waits(f"waits for analysis {before} of the same records")

    async def _take_turn(self, session: AsyncSession) -> dict[str, Any]:
        """Return what tells the others that it is this run's turn, if it still is: two do not find it at once."""
        await look_alone(session, self._scope)
        await self._await_turn(session)
        self._notes["turn"] = self._ctx.run.version
        return {**self._done.values(), "progress": self._done.percent, "resume_at": self._notes}

    # ── judge ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _judge_all(self, retrieval: Retrieval) -> None:
        """Judge until nothing is left, what an ingestion adds meanwhile included: it ends, there being so many."""
        while self._done.finished < self._done.total:
            await self._judge_some(retrieval)
            async with self._ctx.session() as session:
                self._done = await tally(session, self._scope)

    async def _judge_some(self, retrieval: Retrieval) -> None:
        """Judge once what is not finished."""
        doubt = Doubt(succeeded=self._done.judged > 0)
        async with Crew(self._asked(retrieval), self._judge) as crew:
            async for batch in crew.batches():
                await self._keep(doubt.sift(batch))
                doubt.settle()
        await self._keep(doubt.rest())

    async def _asked(self, retrieval: Retrieval) -> AsyncGenerator[Asked]:
        """Yield every unfinished record, page by page, with the passages nearest to it; raise TimeIsUp."""
        after: UUID | None = None
        while page := await outlasting(partial(self._page, after, retrieval.guidelines.embedding_model)):
            after = page[-1][0].id
            async with aclosing(retrieval.of(page)) as found:
                async for asked in found:
                    # Without anything kept another run would fare no better.
                    if self._kept and self._last_call and self._ctx.clock() >= self._last_call:
                        raise TimeIsUp("its time is nearly up: another run goes on")
                    yield asked

    async def _page(self, after: UUID | None, embedding_model: str) -> list[tuple[Record, list[float] | None]]:
        async with self._ctx.session() as session:
            page = await unfinished(session, self._scope, after=after, embedding_model=embedding_model)
        self._read.update((record.id, record.content_hash) for record, _ in page)
        return page

    async def _judge(self, asked: Asked) -> Finished:
        """Return the judgement of one record or why there is none; raise RateLimited."""
        record, found = asked.record, asked.found
        if isinstance(found, Exception):
            return Unjudged(record.id, found)
        question = partial(self._ctx.llm.parse, ask(record, found), into=AlignmentAnswer, model=self._model)
        try:
            return judgement(record, found, await patiently(question))
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
        await outlasting(partial(self._ctx.checkpoint, values, write))
        for one in finished:
            self._read.pop(one.record_id, None)
        self._kept += len(finished)


async def _project(session: AsyncSession, project_id: UUID) -> Row[str, str | None]:
    wanted = select(Project.name, Project.guidelines).where(Project.id == project_id)
    found = (await session.execute(wanted)).one_or_none()
    if found is None:
        raise Permanent(f"project {project_id} no longer exists")
    return found
