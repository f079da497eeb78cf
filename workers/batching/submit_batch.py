"""The handler of ``llm.batch``: gather questions of one provider and model, send them, and wait for the provider.

Each step is committed before the next one begins. A run after a crash goes on where the last one was: it looks for the
batch at the provider before it creates one.
"""

from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, StringConstraints

from models.llm.batches import Batch
from workers.runtime.handler.batches import Batching, NoBatchesError
from workers.runtime.handler.context import Context
from workers.runtime.handler.outcomes import Complete, Outcome, Snooze
from workers.runtime.handler.registry import stage

# Jobs that asked a moment ago are still running: they are woken once they are snoozed.
WAKE_RETRY_DELAY = timedelta(seconds=2)
# A run that was stopped may have asked for the batch just before; the provider shows it within this time.
SHOWN_WITHIN = timedelta(minutes=2)

Text = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"\S")]


class BatchOf(BaseModel):
    """Whose questions to send now, at every door: ``provider`` by its name, and the ``model``."""

    model_config = ConfigDict(extra="forbid")

    provider: Text
    model: Text


@stage("llm.batch", of=Batch, payload=BatchOf, timeout=timedelta(minutes=30))
async def submit_batch(job: Batch, ctx: Context) -> Outcome:
    """Send the questions that wait, and wait for the provider's batch; end at once if there are none.

    A provider without batches leaves its questions to the normal lane.
    """
    if job.cancels is not None:
        return await _end_other(job, job.cancels, ctx)
    batch = batching(job)
    try:
        return await _submit(job, batch, ctx)
    except NoBatchesError as error:
        await ctx.resources.batches.let_go(batch, str(error), again=False, sent=False)
        return await wake_and_close(batch, ctx, {"provider_status": "not offered"})


def batching(job: Batch) -> Batching:
    """Return what the port needs to know of a batch."""
    return Batching(job_id=job.id, lines_of=job.cancels or job.id, provider=job.provider, model=job.model)


async def wake_and_close(batch: Batching, ctx: Context, values: dict[str, Any]) -> Outcome:
    """End the batch once all jobs are woken that waited for it."""
    if awake := await ctx.resources.batches.wake(batch):
        return Snooze(WAKE_RETRY_DELAY, f"{awake} jobs with an answer have not been snoozed yet")
    return Complete(values={**values, "closed_at": _now(ctx)}, into="completed")


async def _submit(job: Batch, batch: Batching, ctx: Context) -> Outcome:
    batches = ctx.resources.batches
    if job.provider_batch_id is not None:  # the last run ended right after it was created
        return Complete(until=ctx.resources.batches.polls.first)
    file_id, since = job.input_file_id, job.creating_since
    if file_id is None and since is None:
        gathered = await batches.gather(batch)
        if not gathered.lines and gathered.reason is not None:
            return Snooze(gathered.delay, gathered.reason)
        if not gathered.lines:
            return Complete(values={"closed_at": _now(ctx)}, into="completed")
        file_id = await batches.upload(batch)
        if file_id is not None:
            await ctx.checkpoint({"input_file_id": file_id})
    found = None
    if since is None:
        await ctx.checkpoint({"creating_since": _now(ctx)})
    else:
        found = await batches.find(batch, since=since)
    found = found or await batches.create(batch, file_id)
    await ctx.checkpoint({"provider_batch_id": found.id, "provider_status": found.status, "submitted_at": _now(ctx)})
    return Complete(until=ctx.resources.batches.polls.first)


async def _end_other(job: Batch, other_id: UUID, ctx: Context) -> Outcome:
    """Cancel the batch of a job that was cancelled or has failed; its lines are freed once the provider is done."""
    batches, batch = ctx.resources.batches, batching(job)
    async with ctx.session() as session:
        other = await session.get(Batch, other_id)
    if other is None:
        return Complete(values={"closed_at": _now(ctx)}, into="completed")
    found = job.provider_batch_id or other.provider_batch_id
    try:
        if found is None and other.creating_since is not None:
            created = await batches.find(batch, since=other.creating_since)
            found = created.id if created else None
            if found is None and _is_fresh(job.created_at, ctx):
                return Snooze(SHOWN_WITHIN / 2, "the provider may not show the batch yet")
        if found is not None:
            await ctx.checkpoint({"provider_batch_id": found, "submitted_at": _now(ctx)})
            await batches.cancel(batch, found)
            return Complete(until=ctx.resources.batches.polls.first)
    except NoBatchesError as error:
        await batches.let_go(batch, str(error), again=False, sent=False)
        return await wake_and_close(batch, ctx, {"provider_status": "not offered"})
    await batches.let_go(batch, "its batch was cancelled before it was sent", again=False, sent=False)
    return await wake_and_close(batch, ctx, {"provider_status": "never sent"})


def _is_fresh(time: datetime, ctx: Context) -> bool:
    return ctx.clock() - time < SHOWN_WITHIN


def _now(ctx: Context) -> str:
    return ctx.clock().isoformat()
