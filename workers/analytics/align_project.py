"""The handler of ``analytics.align``: every record of a project against its guidelines, then what they say together."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, StringConstraints
from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import AnalyticsJob, Project
from models.scoring import DEFAULT_MODEL
from workers.analytics import summary
from workers.analytics.alignment import AlignmentAnswer, Record, ask, judgement
from workers.analytics.crew import Crew, Doubt, Finished, Unjudged
from workers.analytics.guidelines import load
from workers.analytics.patience import patiently
from workers.analytics.pdf import decoded
from workers.analytics.records import Scope, Tally, ahead, keep, tally, unfinished
from workers.analytics.retrieval import Asked, Retrieval
from workers.runtime.context import Context
from workers.runtime.database import outlasting
from workers.runtime.errors import Permanent, RateLimited
from workers.runtime.outcomes import Complete, Outcome, Snooze
from workers.runtime.registry import stage

TURN = timedelta(seconds=30)


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
    records take turns, the oldest first: a record's marks are those of one job.
    """
    scope, model = Scope.of(job), job.model_name or DEFAULT_MODEL
    async with ctx.session() as session:
        if before := await ahead(session, scope):
            return Snooze(TURN, f"waits for analysis {before} of the same records")
        project = await _project(session, scope.project_id)
        done = await tally(session, scope)
    # Said before anything is asked, even of an empty project.
    pdf = await asyncio.to_thread(decoded, project.guidelines, project=project.name)
    if not done.total:
        return Complete(values=done.values())
    await ctx.llm.resolve(model)
    await ctx.checkpoint({**done.values(), "progress": done.percent})
    if done.finished < done.total:
        guidelines = await load(ctx, pdf)
        await _Analysis(ctx, scope, model, Retrieval(ctx, guidelines), done).run()
    async with ctx.session() as session:
        done = await tally(session, scope)
    texts = await summary.texts(ctx, scope, project=project.name, model=model)
    # Deleted meanwhile is neither judged nor failed: what is left is all there was.
    final = Tally(done.finished, done.judged, done.failed)
    return Complete(values=final.values(), write=partial(summary.keep, project_id=scope.project_id, texts=texts))


async def _project(session: AsyncSession, project_id: UUID) -> Row[str, str | None]:
    wanted = select(Project.name, Project.guidelines).where(Project.id == project_id)
    found = (await session.execute(wanted)).one_or_none()
    if found is None:
        raise Permanent(f"project {project_id} no longer exists")
    return found


@dataclass(frozen=True, slots=True)
class _Analysis:
    """One run over what a job has not finished."""

    ctx: Context
    scope: Scope
    model: str
    retrieval: Retrieval
    done: Tally

    async def run(self) -> None:
        """Judge all of it; raise what stops the job, after what was paid for is committed."""
        doubt = Doubt(succeeded=self.done.judged > 0)
        async with Crew(self._asked(), self._judge) as crew:
            async for batch in crew.batches():
                await self._keep(doubt.sift(batch))
                doubt.settle()
        await self._keep(doubt.rest())

    async def _asked(self) -> AsyncGenerator[Asked]:
        """Yield every unfinished record, page by page, with the passages nearest to it."""
        after: UUID | None = None
        while page := await outlasting(partial(self._page, after)):
            after = page[-1][0].id
            async with aclosing(self.retrieval.of(page)) as found:
                async for asked in found:
                    yield asked

    async def _page(self, after: UUID | None) -> list[tuple[Record, list[float] | None]]:
        model = self.retrieval.guidelines.embedding_model
        async with self.ctx.session() as session:
            return await unfinished(session, self.scope, after=after, embedding_model=model)

    async def _judge(self, asked: Asked) -> Finished:
        """Return the judgement of one record or why there is none; raise RateLimited."""
        record, found = asked.record, asked.found
        if isinstance(found, Exception):
            return Unjudged(record.id, found)
        question = partial(self.ctx.llm.parse, ask(record, found), into=AlignmentAnswer, model=self.model)
        try:
            return judgement(record, found, await patiently(question))
        except RateLimited:
            raise
        except Exception as error:  # noqa: BLE001 - listed with the record, or the job's if they are all alike
            return Unjudged(record.id, error)

    async def _keep(self, finished: Sequence[Finished]) -> None:
        """Commit what is finished together with the job's counts. Ends this run if it was cancelled or taken."""
        if not finished:
            return
        self.done.add(finished)
        values = {**self.done.values(), "progress": self.done.percent}
        write = partial(keep, scope=self.scope, finished=finished)
        await outlasting(partial(self.ctx.checkpoint, values, write))
