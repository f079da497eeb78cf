"""The handler of ``vectorization.embed``: the vectors that a job's records lack, by the model of the moment."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from operator import attrgetter
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from models.operations import IngestJob
from workers.longrun.cutting import cut
from workers.longrun.long_run import LongRun, OthersTurn
from workers.longrun.retrying import Retries
from workers.runtime.database import retry_while_away
from workers.runtime.handler.context import Context
from workers.runtime.handler.errors import Retryable
from workers.runtime.handler.outcomes import Complete, Outcome, Snooze
from workers.runtime.handler.registry import stage
from workers.runtime.handler.tokens import tokens_of
from workers.vectorization.asking import RETRIES, Asker, Request, Requests
from workers.vectorization.pending import FIRST, Embedded, Pending, Scope, Target, What, keep

# One page is cut into this many requests, so that only the last of them is not full.
REQUESTS_PER_PAGE = 16
# Each pass begins because the model or the length of its vectors changed during the last.
MOST_PASSES = 6
REFUSED_SHOWN = 100
# Another job embeds the same records; how soon to look whether it has ended.
TURN = timedelta(seconds=10)


class EmbedRequest(BaseModel):
    """What the doors accept for ``vectorization.embed``: embed what a project's records of a type lack.

    The fields are columns of ``ingest_jobs``. Such a job has no file: its first stage has nothing to do.
    """

    model_config = ConfigDict(extra="forbid")

    project_id: UUID
    type: Literal["TASK", "FEEDBACK"]


@stage("vectorization.embed", of=IngestJob, payload=EmbedRequest, timeout=timedelta(hours=6), calls="embeddings")
async def embed_records(job: IngestJob, ctx: Context) -> Outcome:
    """Embed every record of the job that has no vector of the current model and length.

    Vectors are committed as they come, with the job's counters and under its fence. A run that ends early loses what
    was in flight, and the next one goes on. If the provider refuses a text, it stays pending, is listed in ``warnings``
    and is not asked for again by this job's later runs. A rate limit snoozes the job after what was in flight is kept.
    An older job of the same records snoozes it until that job has ended. It waits for a provider that is away. A run
    that has little time left leaves the rest to the next run. None of these spends an attempt.
    """
    return await perform(job, ctx, retries=RETRIES)


async def perform(job: IngestJob, ctx: Context, *, retries: Retries) -> Outcome:
    """Return the outcome of one run; ``retries`` is how often it sends a request."""
    run = _Run(job, ctx, retries)
    stable = await run.long.perform(run.perform, done=run.count_done)
    if isinstance(stable, Snooze):
        return stable
    if not stable:  # no outage: each run that goes on like this is paid for
        raise Retryable(f"embedding model or its dimension changed {MOST_PASSES} times, to {run.target} at last")
    return Complete(values=run.values())


class _Run:
    """One run of one job: what it reads, how far it is, what is current."""

    def __init__(self, job: IngestJob, ctx: Context, retries: Retries) -> None:
        self._job = job
        self._ctx = ctx
        self._scope = Scope.of(job)
        self._asker = Asker(ctx.llm, retries)
        self.target = Target("")
        self._warned = job.warnings or None
        self._total = 0
        self._done = job.embedded_count
        self.long = LongRun(ctx, notes=job.resume_at, deadline=job.deadline_at)

    async def perform(self) -> bool:
        """Embed what waits; return whether it is all by one model now. Raises what stops the run, after its keeping."""
        if (elder := await retry_while_away(self._elder)) is not None:
            raise OthersTurn(f"job {elder} is older and embeds the same records", delay=TURN)
        self.target = Target(await self._ctx.llm.embedding_model())
        self._asker.refused |= self._refused_before()
        await self._count()
        if self._done and not self._scope.own:  # nothing but the length of its vectors tells that a model is another
            self.target = replace(self.target, dimension=await self._asker.dimension(self.target.model))
        for _ in range(MOST_PASSES):
            before = self.target
            await self._pass()
            await self._count()
            if self.target == before:
                return True
        return False

    def values(self) -> dict[str, Any]:
        """Return what the job's row is to say at its end."""
        return {"embedded_count": self._done, "warnings": self._warnings()}

    def count_done(self) -> int:
        """Return how many of the job's records have a vector, as far as this run knows."""
        return self._done

    async def _elder(self) -> UUID | None:
        async with self._ctx.session() as session:
            return await self._scope.elder(session)

    async def _count(self) -> None:
        async def count() -> tuple[int, int]:
            async with self._ctx.session() as session:
                return await self._scope.count(session, self.target.model)

        self._total, self._done = await retry_while_away(count)

    async def _pass(self) -> None:
        """Embed every record that waits, once. Whatever ends it, the next run knows which texts were refused."""
        at_once = self._ctx.llm.embedding_limits.requests
        try:
            async with Requests(self._requests(), self._asker.ask, at_once=at_once) as requests:
                async for group in requests.groups(size=lambda embedded: len(embedded.ids)):
                    await self._keep(group)
        except Exception:
            if (warnings := self._warnings()) != self._warned:
                await self.long.keep({"warnings": warnings})
            raise

    # ── read ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _requests(self) -> AsyncGenerator[Request, None]:
        """Yield the requests of one pass; the next page is read while those of the last are sent."""
        for what in ("empty", "stale"):
            ahead = asyncio.create_task(self._page(what, FIRST))
            try:
                while True:
                    model, page = await ahead
                    if not page:
                        break
                    ahead = asyncio.create_task(self._page(what, page[-1].id))
                    waiting = [record for record in page if record.id not in self._asker.refused]
                    # A server computes as long as the longest text of a request takes: texts of one length go together.
                    waiting.sort(key=lambda record: tokens_of(record.content), reverse=True)
                    for records in cut(waiting, attrgetter("content"), limits=self._ctx.llm.embedding_limits):
                        self.long.require_time()
                        yield Request(records, model)
            finally:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    async def _page(self, what: What, after: UUID) -> tuple[str, list[Pending]]:
        """Return who is to embed now, and the next records."""
        model = await self._ctx.llm.embedding_model()
        if model != self.target.model:
            self.target = Target(model)
            self._asker.refused.clear()  # by the other model
        limit = self._ctx.llm.embedding_limits.texts * REQUESTS_PER_PAGE

        async def read() -> list[Pending]:
            async with self._ctx.session() as session:
                return await self._scope.page(session, what, self.target, after=after, limit=limit)

        return model, await retry_while_away(read)

    # ── keep ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep(self, group: list[Embedded]) -> None:
        """Commit vectors with the job's counters."""
        for one in group:
            length = len(one.vectors[0])
            if one.model == self.target.model and length != self.target.dimension:
                self.target = replace(self.target, dimension=length)
        size = sum(len(one.ids) for one in group)
        self._done = min(self._done + size, self._total)
        share = self._done * 100 // self._total if self._total else 0
        values: dict[str, Any] = {"embedded_count": self._done, "progress": min(max(share, 1), 99)}
        if (warnings := self._warnings()) != self._warned:
            values["warnings"] = warnings
        write = partial(keep, project_id=self._job.project_id, group=group)
        await self.long.keep(values, write, items=size)
        self._warned = warnings

    def _warnings(self) -> dict[str, Any] | None:
        """Return what the job's row is to say of refused texts, beside what its first stage said."""
        said = {name: value for name, value in (self._job.warnings or {}).items() if name != "refused"}
        if refused := self._asker.refused:
            ids = [str(id_) for id_ in refused]
            shown = [{"record": id_, "reason": reason} for id_, reason in zip(ids, refused.values(), strict=True)]
            said["refused"] = {"count": len(ids), "model": self.target.model, "first": shown[:REFUSED_SHOWN]}
            if others := ids[REFUSED_SHOWN:]:
                said["refused"]["others"] = others
        return said or None

    def _refused_before(self) -> dict[UUID, str]:
        """Return what the job's row says that the model of now refused, with the reason where it is kept."""
        said = (self._job.warnings or {}).get("refused", {})
        if said.get("model") != self.target.model:
            return {}
        first = {UUID(one["record"]): one["reason"] for one in said["first"]}
        return first | {UUID(id_): "refused" for id_ in said.get("others", [])}
