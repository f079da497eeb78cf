"""The handler of ``analytics.align``: judge every record of a project by its guidelines, then write the reports."""

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
from workers.analytics.alignment import (
    AlignmentAnswer,
    Finished,
    RecordToJudge,
    Unjudged,
    alignment_question,
    error_of,
    judgement,
)
from workers.analytics.analysis_statements import (
    TURN_RETRY_DELAY,
    AnalysedRecords,
    AnalysisProgress,
    count_progress,
    find_earlier_analysis,
    list_unfinished,
    lock_turns,
    save_findings,
)
from workers.analytics.guidelines import load_guidelines
from workers.analytics.offline_rules import align_by_rule
from workers.analytics.pdf import decode_guidelines
from workers.analytics.retrieval import RecordWithPassages, Retrieval
from workers.longrun.held_failures import HeldFailures
from workers.longrun.in_flight import InFlight
from workers.longrun.long_run import LongRun, OthersTurn
from workers.longrun.retrying import with_retries
from workers.longrun.token_count import TokenCount
from workers.runtime.database import retry_while_away
from workers.runtime.handler.context import Context
from workers.runtime.handler.errors import Permanent, RateLimited, Unavailable
from workers.runtime.handler.outcomes import Complete, Outcome
from workers.runtime.handler.ports import one_model
from workers.runtime.handler.registry import stage
from workers.runtime.handler.sql_door import SqlDoor

MAX_JUDGED_AT_ONCE = 100
_Judging = InFlight[RecordWithPassages, Finished]


class AlignRequest(BaseModel):
    """What the doors accept for ``analytics.align``; the fields are columns of ``analytics_jobs``.

    Without ``type``, all records are judged. Without ``model_name``, the configured default model answers.
    """

    model_config = ConfigDict(extra="forbid")

    project_id: UUID
    type: Literal["TASK", "FEEDBACK"] | None = None
    model_name: (
        Annotated[str, StringConstraints(max_length=255, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/@+-]*$")] | None
    ) = None


@stage(
    "analytics.align",
    of=AnalyticsJob,
    payload=AlignRequest,
    timeout=timedelta(hours=6),
    gate="asked_model",
    calls="chat",
    sql=SqlDoor(results=("total_records", "processed_count", "failed_count", "warnings")),
    searchable=("project_id",),
)
async def align_project(job: AnalyticsJob, ctx: Context) -> Outcome:
    """Judge and rate every record of a project, and write the reports on them to the project.

    Judgements are committed as they come, and another run continues with the rest. A record that cannot be judged is
    listed with its reason and delays no other record. No transaction is open while a model answers. Analyses of the
    same records take turns, so that a record's judgement and ratings come from one job. If the provider is away, or if
    a run has little time left, the job is snoozed and another run continues. Neither spends an attempt. One model
    judges all records: a route that may fall back on another model is refused.
    """
    one_model.set(True)  # its ratings are compared with those of people and of other models
    run = _AlignRun(job, ctx)
    return await run.long.perform(run.perform, done=run.count_done)


class _AlignRun:
    """One run of one job: its records, its progress, and the notes for the next run."""

    def __init__(self, job: AnalyticsJob, ctx: Context) -> None:
        tokens = TokenCount.of(job.resume_at)
        self._ctx = ctx = tokens.counting(ctx)
        self._scope = AnalysedRecords.of(job)
        self._model = job.model_name or DEFAULT_MODEL
        self._begun = job.processed_count > 0
        self._done = AnalysisProgress(job.total_records, job.processed_count - job.failed_count, job.failed_count)
        self._warnings: dict[str, Any] = dict(job.warnings or {})
        self._read: dict[UUID, bytes] = {}
        self.long = LongRun(ctx, notes=job.resume_at, deadline=job.deadline_at, tokens=tokens)

    async def perform(self) -> Outcome:
        """Judge, then write the reports. Answers that were paid for are committed before an error is raised."""
        async with self._ctx.session() as session:
            await self._await_turn(session)
            project = await _project(session, self._scope.project_id)
            self._done = await count_progress(session, self._scope)
        # First, so that a project without readable guidelines fails even if it has no records.
        pdf = await asyncio.to_thread(decode_guidelines, project.guidelines, project=project.name)
        if not self._done.total:
            return Complete(values=self._done.values())
        await self._ctx.llm.resolve(self._model)
        await self._ctx.checkpoint({}, self._take_turn)
        if self._done.finished < self._done.total:
            guidelines = await load_guidelines(self._ctx, pdf)
            await self._warn(guidelines.warning)
            await self._judge_all(Retrieval(self._ctx, guidelines))
        warning = self._warnings.get("guidelines")
        await summary.write_reports(
            self._ctx, self._scope, self.long, project=project.name, model=self._model, warning=warning
        )
        return Complete(values={**self._done.values(), **self.long.noted()})

    async def _warn(self, of_guidelines: str | None) -> None:
        """Store a warning about the guidelines in the job's row."""
        if of_guidelines and self._warnings.get("guidelines") != of_guidelines:
            self._warnings["guidelines"] = of_guidelines
            await self.long.keep({"warnings": self._warnings})

    def count_done(self) -> int:
        """Return how many of the job's records are finished, by the last count of this run."""
        return self._done.finished

    # ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _await_turn(self, session: AsyncSession) -> None:
        if earlier := await find_earlier_analysis(session, self._scope, begun=self._begun):
            raise OthersTurn(f"waits for analysis {earlier} of the same records", delay=TURN_RETRY_DELAY)

    async def _take_turn(self, session: AsyncSession) -> dict[str, Any]:
        """Return the row values that mark this run's turn; raise OthersTurn. Only one run checks at a time."""
        await lock_turns(session, self._scope)
        await self._await_turn(session)
        self.long.notes["turn"] = self._ctx.run.version
        return {**self._done.values(), "progress": self._done.percent, "resume_at": self.long.notes}

    # ── judge ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _judge_all(self, retrieval: Retrieval) -> None:
        """Judge until no record is left, including records that an ingestion adds meanwhile."""
        while self._done.finished < self._done.total:
            await self._judge_once(retrieval)
            async with self._ctx.session() as session:
                self._done = await count_progress(session, self._scope)

    async def _judge_once(self, retrieval: Retrieval) -> None:
        """Judge every unfinished record once."""
        failures = HeldFailures(error_of, succeeded=self._done.judged > 0)
        async with _Judging(self._with_passages(retrieval), self._judge, at_once=MAX_JUDGED_AT_ONCE) as judging:
            async for group in judging.groups():
                await self._save(failures.sift(group))
                failures.raise_if_many()
        await self._save(failures.rest())

    async def _with_passages(self, retrieval: Retrieval) -> AsyncGenerator[RecordWithPassages]:
        """Yield every unfinished record with the passages nearest to it, page by page; raise TimeIsUp."""
        after: UUID | None = None
        while page := await retry_while_away(partial(self._page, after, retrieval.guidelines.embedding_model)):
            after = page[-1][0].id
            async with aclosing(retrieval.find(page)) as found:
                async for asked in found:
                    self.long.require_time()
                    yield asked

    async def _page(self, after: UUID | None, embedding_model: str) -> list[tuple[RecordToJudge, list[float] | None]]:
        async with self._ctx.session() as session:
            page = await list_unfinished(session, self._scope, after=after, embedding_model=embedding_model)
        self._read.update((record.id, record.content_hash) for record, _ in page)
        return page

    async def _judge(self, asked: RecordWithPassages, judging: _Judging) -> None:
        """Deliver the judgement of one record, or why there is none; raise an error that concerns any record."""
        await judging.deliver(await self._judgement(asked))

    async def _judgement(self, asked: RecordWithPassages) -> Finished:
        record, found = asked.record, asked.found
        if isinstance(found, Exception):
            return Unjudged(record.id, found)
        messages = alignment_question(record, found)
        parse = partial(self._ctx.llm.parse, messages, into=AlignmentAnswer, model=self._model, offline=align_by_rule)
        try:
            return judgement(record, found, await with_retries(parse))
        except RateLimited:
            raise
        except Exception as error:
            if isinstance(error, Unavailable) and (error.certain or error.paused):
                raise  # every other question would fail in the same way
            # Listed as the record's error. If all records fail alike, HeldFailures makes it the job's error.
            return Unjudged(record.id, error)

    async def _save(self, finished: Sequence[Finished]) -> None:
        """Commit finished records together with the job's counts. This ends the run if it lost its fence."""
        if not finished:
            return
        self._done.add(finished)
        values = {**self._done.values(), "progress": self._done.percent}
        write = partial(save_findings, scope=self._scope, finished=finished, read=self._read)
        await self.long.keep(values, write, items=len(finished))
        for one in finished:
            self._read.pop(one.record_id, None)


async def _project(session: AsyncSession, project_id: UUID) -> Row[str, str | None]:
    wanted = select(Project.name, Project.guidelines).where(Project.id == project_id)
    found = (await session.execute(wanted)).one_or_none()
    if found is None:
        raise Permanent(f"project {project_id} no longer exists")
    return found
