"""The load generator: put scoring jobs of throw-away profiles through the system that runs, and take them away again.

Every measured job asks a question that was answered a moment before, so it goes the whole way (enqueue, dispatch,
claim, handler, settle) and costs no evaluation. Questions are asked once beforehand; if anybody but the offline
evaluator answers the first, nothing more is asked.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import delete, insert, select

from cli.connection import connected, opened
from models.scoring import Profile, ScoringAnswer, ScoringJob
from workers.llm.offline import MODEL as OFFLINE
from workers.runtime.database import Database, Raw
from workers.runtime.enqueue import enqueue, enqueue_many
from workers.runtime.refusals import Failed
from workers.runtime.store.intervene import cancel

STAGE = "scoring.score"
PROMPT = "Judge how well this made-up profile of a load test describes itself."
# As many jobs of one profile may run at once; so many profiles keep two thousand slots busy.
JOBS_PER_PROFILE = 10
MOST_PROFILES = 200
STALLED_SECONDS = 60.0
_LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much is to be measured."""

    jobs: int
    rate: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the system did. Waits run from the row's insert to its claim and to its completion, by Postgres's clock."""

    jobs: int
    enqueued_per_second: float
    enqueued_singly_per_second: float
    drained_per_second: float
    claimed_after_ms_p50: float
    claimed_after_ms_p99: float
    completed_after_ms_p50: float
    completed_after_ms_p99: float

    def rows(self) -> list[tuple[str, str, str]]:
        """Return name, value and unit of each figure."""
        return [
            ("enqueue, in bulk", f"{self.enqueued_per_second:,.0f}", "jobs/s"),
            ("enqueue, a commit each", f"{self.enqueued_singly_per_second:,.0f}", "jobs/s"),
            ("drain", f"{self.drained_per_second:,.0f}", "jobs/s"),
            ("enqueue to claim, p50", f"{self.claimed_after_ms_p50:,.1f}", "ms"),
            ("enqueue to claim, p99", f"{self.claimed_after_ms_p99:,.1f}", "ms"),
            ("enqueue to completion, p50", f"{self.completed_after_ms_p50:,.1f}", "ms"),
            ("enqueue to completion, p99", f"{self.completed_after_ms_p99:,.1f}", "ms"),
        ]


async def measure(database_url: str, load: Load, *, tell: Callable[[str], None]) -> Measured:
    """Put ``load`` through the system and return what it did; leaves no job and no profile, however it ends.

    Raises Failed where nobody works on the jobs, where one fails, and where a language model would be asked.
    """
    count = min(MOST_PROFILES, -(-load.jobs // JOBS_PER_PROFILE))
    async with (
        opened(database_url) as database,
        _profiles(database, count) as profiles,
        connected(database_url) as conn,
    ):
        await _prepare(database, conn, profiles)
        tell(f"draining {load.jobs:,} jobs")
        bulk, drained = await _drain(database, conn, profiles, load.jobs)
        tell(f"{load.rate:g} jobs per second for {load.seconds:g} s")
        single, waits = await _trickle(database, conn, profiles, load)
        return Measured(
            jobs=load.jobs,
            enqueued_per_second=bulk,
            enqueued_singly_per_second=single,
            drained_per_second=drained,
            claimed_after_ms_p50=_percentile([claimed for claimed, _ in waits], 50),
            claimed_after_ms_p99=_percentile([claimed for claimed, _ in waits], 99),
            completed_after_ms_p50=_percentile([completed for _, completed in waits], 50),
            completed_after_ms_p99=_percentile([completed for _, completed in waits], 99),
        )


def _percentile(seconds: Sequence[float], share: int) -> float:
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, len(ordered) * share // 100)] * 1_000


@asynccontextmanager
async def _profiles(database: Database, count: int) -> AsyncIterator[list[UUID]]:
    """Yield throw-away profiles; in the end cancel what still runs and delete them with their jobs and answers."""
    marker = uuid4().hex
    rows = [{"name": f"load test {marker} {n}", "attributes": {"load_test": marker}} for n in range(count)]
    async with database.session() as session:
        ids = list(await session.scalars(insert(Profile).returning(Profile.id), rows))
    try:
        yield ids
    finally:
        await _forget(database, ids)


async def _forget(database: Database, profiles: Sequence[UUID]) -> None:
    theirs = ScoringJob.profile_id.in_(profiles)
    async with database.session() as session:
        jobs = list(await session.scalars(select(ScoringJob.id).where(theirs)))
    async with database.kernel() as conn:
        await cancel(conn, ScoringJob, jobs, reason="the load test is over")
    async with database.session() as session:
        await session.execute(
            delete(ScoringAnswer).where(ScoringAnswer.job_id.in_(select(ScoringJob.id).where(theirs)))
        )
        await session.execute(delete(ScoringJob).where(theirs))
        await session.execute(delete(Profile).where(Profile.id.in_(profiles)))


def _payloads(profiles: Sequence[UUID], count: int) -> list[dict[str, str]]:
    return [{"profile_id": str(profiles[n % len(profiles)]), "prompt": PROMPT} for n in range(count)]


async def _prepare(database: Database, conn: Raw, profiles: Sequence[UUID]) -> None:
    """Have every question answered once, the first alone: it shows who answers."""
    for some in (profiles[:1], profiles[1:]):
        async with database.session() as session:
            await enqueue_many(session, STAGE, _payloads(some, len(some)))
        await _follow(conn, profiles)
        model = await _value(
            conn, "SELECT max(parsed_score->>'model') FROM scoring.scoring_jobs WHERE {theirs}", profiles
        )
        if model != OFFLINE:
            raise Failed(
                f"the workers here ask {model!r}, and a load test must cost nothing; "
                "run it where neither OPENAI_API_KEY nor OPENAI_BASE_URL is set"
            )


async def _drain(database: Database, conn: Raw, profiles: Sequence[UUID], jobs: int) -> tuple[float, float]:
    """Return jobs per second enqueued in one transaction, and drained from its commit to the last completion."""
    payloads = _payloads(profiles, jobs)
    async with database.session() as session:
        _ = await session.connection()  # connecting is no part of enqueueing
        start = time.perf_counter()
        await enqueue_many(session, STAGE, payloads)
    enqueued = time.perf_counter() - start
    committed = await _value(conn, "SELECT clock_timestamp()", profiles)
    await _follow(conn, profiles)
    last = await _value(conn, "SELECT max(completed_at) FROM scoring.scoring_jobs WHERE {theirs}", profiles)
    return jobs / enqueued, jobs / (last - committed).total_seconds()


async def _trickle(
    database: Database, conn: Raw, profiles: Sequence[UUID], load: Load
) -> tuple[float, list[tuple[float, float]]]:
    """Enqueue at random moments, a commit each; return the rate that one caller could reach, and each job's waits."""
    loop = asyncio.get_running_loop()
    ids: list[UUID] = []
    spent, at, start = 0.0, 0.0, loop.time()
    while (at := at + random.expovariate(load.rate)) < load.seconds or not ids:
        await asyncio.sleep(start + at - loop.time())
        before = loop.time()
        async with database.session() as session:
            payload = {"profile_id": str(profiles[len(ids) % len(profiles)]), "prompt": PROMPT}
            ids.append((await enqueue(session, STAGE, payload)).id)
        spent += loop.time() - before
    await _follow(conn, profiles)
    cursor = await conn.execute(
        "SELECT extract(epoch FROM started_at - created_at)::float8, "
        "extract(epoch FROM completed_at - created_at)::float8 FROM scoring.scoring_jobs WHERE id = ANY (%s)",
        [ids],
    )
    return len(ids) / spent, await cursor.fetchall()


async def _follow(conn: Raw, profiles: Sequence[UUID]) -> None:
    """Return once all jobs have completed; looking takes a tenth of the time, however many there are."""
    loop = asyncio.get_running_loop()
    left, moved_at = None, loop.time()
    while True:
        before = loop.time()
        open_, failed = await _row(
            conn,
            "SELECT count(*) FILTER (WHERE completed_at IS NULL), max(error_message) FILTER (WHERE status = 'failed') "
            "FROM scoring.scoring_jobs WHERE {theirs}",
            profiles,
        )
        if failed is not None:
            raise Failed(f"a job of the load test failed: {failed}")
        if not open_:
            return
        if open_ != left:
            left, moved_at = open_, loop.time()
        if loop.time() - moved_at > STALLED_SECONDS:
            raise Failed(f"nothing moved for {STALLED_SECONDS:.0f} s; {open_} jobs wait: {await _why(conn, profiles)}")
        await asyncio.sleep(max(_LOOK_SECONDS, 9 * (loop.time() - before)))


async def _why(conn: Raw, profiles: Sequence[UUID]) -> str:
    waiting = "SELECT id FROM scoring.scoring_jobs WHERE {theirs} AND completed_at IS NULL LIMIT 1"
    reason = await _value(conn, f"SELECT max(wait_reason) FROM runtime.jobs WHERE id = ({waiting})", profiles)  # noqa: S608 - a text of ours
    return str(reason or "they run")


async def _value(conn: Raw, sql: str, profiles: Sequence[UUID]) -> Any:
    return (await _row(conn, sql, profiles))[0]


async def _row(conn: Raw, sql: str, profiles: Sequence[UUID]) -> tuple[Any, ...]:
    """Return the one row of ``sql``, in which ``{theirs}`` stands for the jobs of these profiles."""
    cursor = await conn.execute(
        sql.format(theirs="profile_id = ANY (%(profiles)s)").encode(), {"profiles": list(profiles)}
    )
    row = await cursor.fetchone()
    assert row is not None
    return tuple(row)
