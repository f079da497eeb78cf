"""Follow jobs of the demonstration to their end. If nothing moves for two minutes, fail and cancel the rest."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from cli.connection import actor
from cli.following import job_events
from cli.values import format_count
from workers.runtime.database import Raw
from workers.runtime.operate.changes import CANCEL, ChangeCounts, change_jobs
from workers.runtime.operate.events import JobEvents
from workers.runtime.operate.jobs import JobFilter, count_wait_reasons
from workers.runtime.refusals import Failed

STALLED_SECONDS = 120.0
# No notification says how far a job is, so its progress is polled.
_POLL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class StepProgress:
    """The progress of a step. ``cached`` items were answered from stored answers."""

    total: int
    completed: int = 0
    failed: int = 0
    cached: int = 0
    retries: int = 0
    done: bool = False

    @property
    def ended(self) -> int:
        return self.completed + self.failed


async def follow_jobs(
    database_url: str,
    job_ids: Sequence[UUID],
    load_progress: Callable[[Raw], Awaitable[StepProgress]],
    *,
    show: Callable[[StepProgress], None],
    check: Callable[[], None],
) -> None:
    """Call ``load_progress`` and ``show`` until all is done. After an error, cancel the jobs that have not ended.

    ``check`` is called at each poll and may raise. Raise Failed, with the reasons why the jobs wait, if nothing moves
    for two minutes. The function waits while Postgres restarts.
    """
    async with job_events(database_url, patience=STALLED_SECONDS) as events:
        try:
            await _follow(events, job_ids, load_progress, show, check)
        except BaseException:
            with suppress(Exception):  # the first error is the one to report
                await events.ask(lambda conn: _cancel(conn, job_ids))
            raise


async def _follow(
    events: JobEvents,
    job_ids: Sequence[UUID],
    load_progress: Callable[[Raw], Awaitable[StepProgress]],
    show: Callable[[StepProgress], None],
    check: Callable[[], None],
) -> None:
    loop = asyncio.get_running_loop()
    seen, moved_at = StepProgress(0), loop.time()
    while not seen.done:
        asked_at = loop.time()
        now = await events.ask(load_progress)
        moved_at += loop.time() - asked_at  # time in which Postgres did not answer does not count
        if now != seen:
            seen, moved_at = now, loop.time()
        show(seen)
        check()
        if loop.time() - moved_at > STALLED_SECONDS:
            waits = await events.ask(lambda conn: _describe_waits(conn, job_ids))
            raise Failed(f"nothing moved for {STALLED_SECONDS:.0f} s; {waits}")
        await events.wait(job_ids, _POLL_SECONDS)


async def _cancel(conn: Raw, job_ids: Sequence[UUID]) -> None:
    wanted = JobFilter(ids=job_ids)
    await change_jobs(conn, CANCEL, wanted, actor("the demonstration was interrupted"), changed=ChangeCounts())


async def _describe_waits(conn: Raw, job_ids: Sequence[UUID]) -> str:
    reasons = await count_wait_reasons(conn, job_ids)
    return (
        "; ".join(f"{format_count(count, 'job')}: {reason}" for reason, count in reasons.most_common(3))
        or "all jobs run"
    )
