"""The handler of ``vectorization.embed``: make the missing vectors of a job's records, with the current model."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from operator import attrgetter
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import IngestJob
from workers.longrun.cutting import cut
from workers.longrun.long_run import LongRun, OthersTurn
from workers.longrun.retrying import Retries
from workers.longrun.token_count import TokenCount
from workers.runtime.database import retry_while_away
from workers.runtime.handler.context import Context
from workers.runtime.handler.errors import Retryable
from workers.runtime.handler.outcomes import Complete, Outcome, Snooze
from workers.runtime.handler.ports import ReuseLedger
from workers.runtime.handler.registry import stage
from workers.runtime.handler.sql_door import SqlDoor
from workers.runtime.handler.tokens import tokens_of
from workers.vectorization.equal_texts import Copied, copy_vectors, list_projects
from workers.vectorization.pending import (
    LOWEST_ID,
    EmbeddedRecords,
    EmbeddingTarget,
    PendingKind,
    PendingRecord,
    RecordsToEmbed,
    save_vectors,
)
from workers.vectorization.vector_requests import REQUEST_RETRIES, VectorRequest, VectorRequester, VectorRequests

# A page has the texts of this many full requests.
REQUESTS_PER_PAGE = 16
# Another pass begins if the model or the length of its vectors changed during the last one.
MAX_PASSES = 6
MAX_REFUSED_SHOWN = 100
# How long to wait before checking again whether the older job for the same records has ended.
OLDER_JOB_DELAY = timedelta(seconds=10)


class EmbedRequest(BaseModel):
    """What the doors accept for ``vectorization.embed``: embed the records of a project and type that have no vector.

    The fields are columns of ``ingest_jobs``. Such a job has no file, and its first stage does nothing.
    """

    model_config = ConfigDict(extra="forbid")

    project_id: UUID
    type: Literal["TASK", "FEEDBACK"]


@stage(
    "vectorization.embed",
    of=IngestJob,
    payload=EmbedRequest,
    timeout=timedelta(hours=6),
    calls="embeddings",
    sql=SqlDoor(results=("embedded_count", "warnings")),
    searchable=("project_id",),
)
async def embed_records(job: IngestJob, ctx: Context) -> Outcome:
    """Embed every record of the job that has no vector of the current model and length.

    If an equal text of the same owner has a vector of this model, that vector is copied and nothing is sent.

    Vectors are committed as they come, with the job's counters and under its fence. A run that ends early loses only
    the requests in flight, and the next run continues. If the provider refuses a text, the text stays without a vector,
    is listed in ``warnings``, and later runs of this job do not send it again.

    The job is snoozed, without spending an attempt: on a rate limit (after the requests in flight are stored), while an
    older job embeds the same records, while the provider is away, and if the run has little time left.
    """
    return await perform(job, ctx, retries=REQUEST_RETRIES)


async def perform(job: IngestJob, ctx: Context, *, retries: Retries) -> Outcome:
    """Return the outcome of one run. ``retries`` says how often a request is sent."""
    run = _EmbedRun(job, ctx, retries)
    stable = await run.long.perform(run.perform, done=run.count_done)
    if isinstance(stable, Snooze):
        return stable
    if not stable:  # this spends an attempt, because each pass is paid for
        raise Retryable(f"embedding model or its dimension changed {MAX_PASSES} times, last to {run.target}")
    return Complete(values=run.values())


class _EmbedRun:
    """One run of one job: its records, its progress, the current model."""

    def __init__(self, job: IngestJob, ctx: Context, retries: Retries) -> None:
        tokens = TokenCount.of(job.resume_at)
        self._job = job
        self._ctx = ctx = tokens.counting(ctx)
        self._records = RecordsToEmbed.of(job)
        self._requester = VectorRequester(ctx.llm, retries)
        self.target = EmbeddingTarget("")
        self._warned = job.warnings or None
        self._total = 0
        self._done = job.embedded_count
        self._saving = asyncio.Lock()
        # The other projects of the owner; None until they were read.
        self._projects: list[UUID] | None = None
        self.long = LongRun(ctx, notes=job.resume_at, deadline=job.deadline_at, tokens=tokens)

    async def perform(self) -> bool:
        """Embed the pending records; return whether all vectors are of one model now. Raise what stops the run."""
        if (older := await retry_while_away(self._older_job)) is not None:
            raise OthersTurn(f"job {older} is older and embeds the same records", delay=OLDER_JOB_DELAY)
        self.target = EmbeddingTarget(await self._ctx.llm.embedding_model())
        self._requester.refused |= self._refused_before()
        await self._count()
        if self._done and not self._records.own:  # a model with the same name may be another: compare the vector length
            self.target = replace(self.target, dimension=await self._requester.dimension(self.target.model))
        for _ in range(MAX_PASSES):
            before = self.target
            await self._pass()
            await self._count()
            if self.target == before:
                return True
        return False

    def values(self) -> dict[str, Any]:
        """Return the values of the job's row at its end."""
        return {"embedded_count": self._done, "warnings": self._warnings(), **self.long.noted()}

    def count_done(self) -> int:
        """Return how many of the job's records have a vector, by the last count of this run."""
        return self._done

    async def _older_job(self) -> UUID | None:
        async with self._ctx.session() as session:
            return await self._records.older_job(session)

    async def _count(self) -> None:
        async def count() -> tuple[int, int]:
            async with self._ctx.session() as session:
                return await self._records.count(session, self.target.model)

        self._total, self._done = await retry_while_away(count)

    async def _pass(self) -> None:
        """Embed every pending record once. If an error ends this, store the refused texts for the next run."""
        at_once = self._ctx.llm.embedding_limits.requests
        try:
            async with VectorRequests(self._requests(), self._requester.ask, at_once=at_once) as requests:
                async for group in requests.groups(size=lambda embedded: len(embedded.ids)):
                    await self._save(group)
        except Exception:
            if (warnings := self._warnings()) != self._warned:
                await self.long.keep({"warnings": warnings})
            raise

    # ── read ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _requests(self) -> AsyncGenerator[VectorRequest, None]:
        """Yield the requests of one pass. While the requests of a page are sent, the next page is read."""
        for what in ("empty", "stale"):
            ahead = asyncio.create_task(self._page(what, LOWEST_ID))
            try:
                while True:
                    model, page = await ahead
                    if not page:
                        break
                    ahead = asyncio.create_task(self._page(what, page[-1].id))
                    copied = await self._copy(page, model)
                    waiting = [
                        record
                        for record in page
                        if record.id not in self._requester.refused and record.id not in copied
                    ]
                    # A request takes as long as its longest text: put texts of similar length together.
                    waiting.sort(key=lambda record: tokens_of(record.content), reverse=True)
                    for records in cut(waiting, attrgetter("content"), limits=self._ctx.llm.embedding_limits):
                        self.long.require_time()
                        yield VectorRequest(records, model)
            finally:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    async def _page(self, what: PendingKind, after: UUID) -> tuple[str, list[PendingRecord]]:
        """Return the current model and the next records."""
        model = await self._ctx.llm.embedding_model()
        if model != self.target.model:
            self.target = EmbeddingTarget(model)
            self._requester.refused.clear()  # the other model refused them
        limit = self._ctx.llm.embedding_limits.texts * REQUESTS_PER_PAGE

        async def read() -> list[PendingRecord]:
            async with self._ctx.session() as session:
                return await self._records.page(session, what, self.target, after=after, limit=limit)

        return model, await retry_while_away(read)

    async def _copy(self, page: list[PendingRecord], model: str) -> set[UUID]:
        """Give the records the vectors that equal texts of the same owner have; return those that got one."""
        if self._projects is None:

            async def read() -> list[UUID]:
                async with self._ctx.session() as session:
                    return await list_projects(session, self._job.project_id)

            self._projects = await retry_while_away(read)
        if not self._projects:
            return set()
        copied: list[Copied] = []

        async def copy(session: AsyncSession) -> dict[str, Any]:
            copied[:] = await copy_vectors(
                session,
                [record.id for record in page],
                replace(self.target, model=model),
                project_id=self._job.project_id,
                projects=self._projects or (),
            )
            return self._count_more(len(copied)) if copied else {}

        async with self._saving:
            await self.long.keep({}, copy)
            self._done = min(self._done + len(copied), self._total)
            self.long.kept += len(copied)
        if copied and isinstance(self._ctx.llm, ReuseLedger):
            await self._ctx.llm.record_reused(sum(one.bytes for one in copied) // 3, model=model)
        return {one.id for one in copied}

    # ── save ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _save(self, group: list[EmbeddedRecords]) -> None:
        """Commit vectors with the job's counters."""
        for one in group:
            length = len(one.vectors[0])
            if one.model == self.target.model and length != self.target.dimension:
                self.target = replace(self.target, dimension=length)
        size = sum(len(one.ids) for one in group)
        async with self._saving:
            values = self._count_more(size)
            self._done = values["embedded_count"]
            if (warnings := self._warnings()) != self._warned:
                values["warnings"] = warnings
            write = partial(save_vectors, project_id=self._job.project_id, group=group)
            await self.long.keep(values, write, items=size)
            self._warned = warnings

    def _count_more(self, size: int) -> dict[str, Any]:
        """Return the job's counters with ``size`` more vectors."""
        done = min(self._done + size, self._total)
        share = done * 100 // self._total if self._total else 0
        return {"embedded_count": done, "progress": min(max(share, 1), 99)}

    def _warnings(self) -> dict[str, Any] | None:
        """Return the row's warnings: those of the first stage, and the refused texts."""
        warnings = {name: value for name, value in (self._job.warnings or {}).items() if name != "refused"}
        if refused := self._requester.refused:
            ids = [str(id_) for id_ in refused]
            shown = [{"record": id_, "reason": reason} for id_, reason in zip(ids, refused.values(), strict=True)]
            warnings["refused"] = {"count": len(ids), "model": self.target.model, "first": shown[:MAX_REFUSED_SHOWN]}
            if others := ids[MAX_REFUSED_SHOWN:]:
                warnings["refused"]["others"] = others
        return warnings or None

    def _refused_before(self) -> dict[UUID, str]:
        """Return the records that the current model refused in earlier runs, with the reason if it was stored."""
        refused = (self._job.warnings or {}).get("refused", {})
        if refused.get("model") != self.target.model:
            return {}
        first = {UUID(one["record"]): one["reason"] for one in refused["first"]}
        return first | {UUID(id_): "refused" for id_ in refused.get("others", [])}
