"""The handler of ``llm.collect``: see how far a provider's batch is, take its answers, and wake the jobs that wait."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import structlog

from models.llm.batches import Batch
from workers.batching.submit_batch import BatchOf, batching, wake_and_close
from workers.runtime.handler.batches import NoBatchesError, ProviderBatch, Taken
from workers.runtime.handler.context import Context
from workers.runtime.handler.outcomes import Complete, Outcome
from workers.runtime.handler.registry import stage

log = structlog.get_logger(__name__)

# A warning is logged if the provider's sum and the sum of its lines differ by more than this.
MAX_DIFFERENCE = 0.02
# Why a whole batch is refused for now: another one later may be taken.
FULL = ("token_limit_exceeded", "rate_limit", "quota", "billing")


@stage("llm.collect", of=Batch, payload=BatchOf, timeout=timedelta(minutes=30))
async def collect_batch(job: Batch, ctx: Context) -> Outcome:
    """Wait on while the provider works; cancel a batch that nobody waits for; else take what it answered.

    Lines that expired or failed are asked again by themselves: in another batch, or in the normal lane as their time
    ends.
    """
    batches, batch = ctx.resources.batches, batching(job)
    if job.closed_at is not None or job.provider_batch_id is None:  # all is taken: only jobs are left to wake
        return await wake_and_close(batch, ctx, {})
    try:
        found = await batches.look(batch, job.provider_batch_id)
        seen = {"provider_status": found.status, "counts": _plain(found.counts)}
        if not found.is_over:
            wanted = await batches.count_wanted(batch)
            if (wanted == 0 or job.cancels is not None) and found.status != "cancelling":
                await batches.cancel(batch, job.provider_batch_id)
            return Complete(values=seen, into="at_provider", until=poll_delay(job, ctx))
        taken = await batches.take(batch, found, again=job.cancels is None)
    except NoBatchesError as error:
        await batches.let_go(batch, str(error), again=False, sent=True)
        return await wake_and_close(batch, ctx, {})
    _compare_usage(job, found, taken)
    is_full = found.status == "failed" and any(word in (found.failure or "").lower() for word in FULL)
    again = job.cancels is None and (found.status != "failed" or is_full)
    reason = f"the provider's batch is {found.status}" + (f": {found.failure}" if found.failure else "")
    await batches.let_go(batch, reason, again=again, sent=not is_full)
    values = {**seen, "usage": _plain(found.usage)}
    await ctx.checkpoint({**values, "closed_at": ctx.clock().isoformat()})
    return await wake_and_close(batch, ctx, values)


def poll_delay(job: Batch, ctx: Context) -> timedelta:
    """Return how long to wait for the next look at the provider's batch."""
    return ctx.resources.batches.polls.delay(ctx.clock() - (job.submitted_at or ctx.clock()))


def _compare_usage(job: Batch, found: ProviderBatch, taken: Taken) -> None:
    """Tell if the provider's sum of tokens is not that of the lines."""
    total = (found.usage or {}).get("total_tokens")
    done = (found.counts or {}).get("completed")
    if not isinstance(total, int) or done != taken.answered:  # some lines were booked by an earlier run
        return
    if abs(total - taken.tokens) > MAX_DIFFERENCE * max(total, 1):
        log.warning(
            "batch_usage_differs",
            provider=job.provider,
            provider_batch_id=found.id,
            tokens_of_batch=total,
            tokens_of_lines=taken.tokens,
        )


def _plain(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if values is None else dict(values)
