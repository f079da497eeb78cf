"""Follow jobs of the demonstration to their end: look, show, give up when nothing moves, cancel what was left."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from cli.steady import SteadyConnection, steady
from models.lifecycle import Job
from workers.runtime.database import Raw
from workers.runtime.refusals import Failed
from workers.runtime.store.intervene import cancel

STALLED_SECONDS = 120.0
_LOOK_SECONDS = 0.1


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
    model: type[Job],
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
    async with steady(database_url, patience=STALLED_SECONDS) as connection:
        try:
            await _follow(connection, job_ids, look, show, check)
        except BaseException:
            with suppress(Exception):  # the first error is the one to tell
                await connection.ask(lambda conn: cancel(conn, model, job_ids, reason="the demonstration was ended"))
            raise


async def _follow(
    connection: SteadyConnection,
    job_ids: Sequence[UUID],
    look: Callable[[Raw], Awaitable[Progress]],
    show: Callable[[Progress], None],
    check: Callable[[], None],
) -> None:
    loop = asyncio.get_running_loop()
    seen, moved_at = Progress(0), loop.time()
    while not seen.done:
        asked_at = loop.time()
        now = await connection.ask(look)
        moved_at += loop.time() - asked_at  # a Postgres that was away stopped nobody's progress
        if now != seen:
            seen, moved_at = now, loop.time()
        show(seen)
        check()
        if loop.time() - moved_at > STALLED_SECONDS:
            raise Failed(
                f"nothing moved for {STALLED_SECONDS:.0f} s; {await connection.ask(lambda conn: _waits(conn, job_ids))}"
            )
        await asyncio.sleep(_LOOK_SECONDS)


async def _waits(conn: Raw, job_ids: Sequence[UUID]) -> str:
    cursor = await conn.execute("SELECT wait_reason FROM runtime.jobs WHERE id = ANY (%s)", [list(job_ids)])
    reasons = Counter(reason for (reason,) in await cursor.fetchall() if reason)
    return "; ".join(f"{count} jobs: {reason}" for reason, count in reasons.most_common(3)) or "all of them run"
