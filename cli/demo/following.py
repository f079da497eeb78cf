"""Follow jobs of the demonstration to their end: look, show, give up when nothing moves, cancel what was left."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from cli.connection import actor
from cli.following import job_events
from workers.runtime.database import Raw
from workers.runtime.operate.changes import CANCEL, ChangeCounts, change_jobs
from workers.runtime.operate.events import JobEvents
from workers.runtime.operate.jobs import JobFilter, count_wait_reasons
from workers.runtime.refusals import Failed

STALLED_SECONDS = 120.0
# Progress within a job is told by nobody: it is looked for.
_LOOK_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a step is; ``cached`` items were answered without asking again."""

    total: int
    completed: int = 0
    failed: int = 0
    cached: int = 0
    retries: int = 0
    done: bool = False

    @property
    def ended(self) -> int:
        return self.completed + self.failed


async def follow(
    database_url: str,
    job_ids: Sequence[UUID],
    look: Callable[[Raw], Awaitable[Progress]],
    *,
    show: Callable[[Progress], None],
    check: Callable[[], None],
) -> None:
    """Return when ``look`` says that all is done, showing what it sees; given up before, the others are cancelled.

    ``check`` is called at each look and may raise. Raises Failed if nothing moves for two minutes, with what
    the jobs wait for. A restart of Postgres is waited for.
    """
    async with job_events(database_url, patience=STALLED_SECONDS) as events:
        try:
            await _follow(events, job_ids, look, show, check)
        except BaseException:
            with suppress(Exception):  # the first error is the one to tell
                await events.ask(lambda conn: _cancel(conn, job_ids))
            raise


async def _follow(
    events: JobEvents,
    job_ids: Sequence[UUID],
    look: Callable[[Raw], Awaitable[Progress]],
    show: Callable[[Progress], None],
    check: Callable[[], None],
) -> None:
    loop = asyncio.get_running_loop()
    seen, moved_at = Progress(0), loop.time()
    while not seen.done:
        asked_at = loop.time()
        now = await events.ask(look)
        moved_at += loop.time() - asked_at  # a Postgres that was away stopped nobody's progress
        if now != seen:
            seen, moved_at = now, loop.time()
        show(seen)
        check()
        if loop.time() - moved_at > STALLED_SECONDS:
            raise Failed(
                f"nothing moved for {STALLED_SECONDS:.0f} s; {await events.ask(lambda conn: _waits(conn, job_ids))}"
            )
        await events.wait(job_ids, _LOOK_SECONDS)


async def _cancel(conn: Raw, job_ids: Sequence[UUID]) -> None:
    wanted = JobFilter(ids=job_ids)
    await change_jobs(conn, CANCEL, wanted, actor("the demonstration was ended"), changed=ChangeCounts())


async def _waits(conn: Raw, job_ids: Sequence[UUID]) -> str:
    reasons = await count_wait_reasons(conn, job_ids)
    return "; ".join(f"{count} jobs: {reason}" for reason, count in reasons.most_common(3)) or "all of them run"
