"""The load generator: run scoring jobs of temporary profiles through the running system, then delete them.

Each question is asked once before the measurement. So every measured job passes all steps (enqueue, dispatch, claim,
handler, settle) and reuses an answer that exists. If another model than the free one answers the first question, the
test stops.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import delete, func, insert, select

from models.scoring import Profile, ScoringAnswer, ScoringJob
from workers.runtime.actor import NOBODY, Actor, acting
from workers.runtime.database import Database, Raw
from workers.runtime.enqueue import enqueue, enqueue_many
from workers.runtime.refusals import Failed

STAGE = "scoring.score"
PROMPT = "Judge how well this made-up profile of a load test describes itself."
# At most 10 jobs of one profile run at once, so 200 profiles fill 2,000 slots.
JOBS_PER_PROFILE = 10
MAX_PROFILES = 200
_LOAD_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The size of the measurement. Only ``free_model`` may answer, because it costs nothing.

    The measurement fails if no job ends for ``stalled_seconds``.
    """

    jobs: int
    rate: float
    seconds: float
    free_model: str
    stalled_seconds: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The results. Waits are measured from a row's insert to its claim and to its completion, by Postgres's clock."""

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


async def measure(database: Database, load: Load, *, tell: Callable[[str], None], actor: Actor = NOBODY) -> Measured:
    """Run ``load`` through the system and return the results. Its jobs and profiles are deleted in any case.

    Raise Failed if no worker takes the jobs, if a job fails, or if another model than the free one answers.
    """
    count = min(MAX_PROFILES, -(-load.jobs // JOBS_PER_PROFILE))
    async with _throwaway_profiles(database, count, actor) as profiles, _read_connection(database) as conn:
        test = _LoadTest(database, conn, load, profiles)
        await test.prepare()
        tell(f"draining {load.jobs:,} jobs")
        bulk, drained = await test.drain()
        tell(f"{load.rate:g} jobs per second for {load.seconds:g} s")
        single, waits = await test.trickle()
    claimed, completed = [one for one, _ in waits], [one for _, one in waits]
    return Measured(
        jobs=load.jobs,
        enqueued_per_second=bulk,
        enqueued_singly_per_second=single,
        drained_per_second=drained,
        claimed_after_ms_p50=_percentile(claimed, 50),
        claimed_after_ms_p99=_percentile(claimed, 99),
        completed_after_ms_p50=_percentile(completed, 50),
        completed_after_ms_p99=_percentile(completed, 99),
    )


def _percentile(seconds: Sequence[float], share: int) -> float:
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, len(ordered) * share // 100)] * 1_000


@asynccontextmanager
async def _read_connection(database: Database) -> AsyncIterator[Raw]:
    """Yield a connection that commits each statement, to read the jobs."""
    conn = await database.listen()
    try:
        yield conn
    finally:
        await conn.close()


@asynccontextmanager
async def _throwaway_profiles(database: Database, count: int, actor: Actor) -> AsyncIterator[list[UUID]]:
    """Yield temporary profiles. At the end, cancel unfinished jobs and delete profiles, jobs and answers."""
    marker = uuid4().hex
    rows = [{"name": f"load test {marker} {n}", "attributes": {"load_test": marker}} for n in range(count)]
    async with database.session() as session, acting(session, actor):
        ids = list(await session.scalars(insert(Profile).returning(Profile.id), rows))
    try:
        yield ids
    finally:
        await _delete_load(database, ids, actor)


async def _delete_load(database: Database, profiles: Sequence[UUID], actor: Actor) -> None:
    theirs = ScoringJob.profile_id.in_(profiles)
    cancel = func.runtime.cancel(ScoringJob.id, "the load test is over")
    async with database.session() as session, acting(session, actor):
        await session.execute(select(cancel).where(theirs, ScoringJob.completed_at.is_(None)))
    async with database.session() as session, acting(session, actor):
        jobs = select(ScoringJob.id).where(theirs)
        await session.execute(delete(ScoringAnswer).where(ScoringAnswer.job_id.in_(jobs)))
        await session.execute(delete(ScoringJob).where(theirs))
        await session.execute(delete(Profile).where(Profile.id.in_(profiles)))


@dataclass(frozen=True, slots=True)
class _LoadTest:
    """One measurement with its profiles; ``conn`` only reads."""

    database: Database
    conn: Raw
    load: Load
    profiles: Sequence[UUID]

    async def prepare(self) -> None:
        """Have each question answered once. The first one is asked alone, to see which model answers."""
        for some in (self.profiles[:1], self.profiles[1:]):
            async with self.database.session() as session:
                await enqueue_many(session, STAGE, _payloads(some, len(some)))
            await self._wait_until_drained()
            model = await self._value(
                "SELECT max(parsed_score->>'model') FROM scoring.scoring_jobs WHERE profile_id = ANY (%(profiles)s)"
            )
            if model != self.load.free_model:
                raise Failed(
                    f"the workers here ask {model!r}, and a load test must cost nothing; "
                    "run it without OPENAI_API_KEY and OPENAI_BASE_URL"
                )

    async def drain(self) -> tuple[float, float]:
        """Return jobs per second: enqueued in one transaction, and completed from its commit to the last completion."""
        payloads = _payloads(self.profiles, self.load.jobs)
        async with self.database.session() as session:
            _ = await session.connection()  # do not measure the time to connect
            start = time.perf_counter()
            await enqueue_many(session, STAGE, payloads)
        enqueued = time.perf_counter() - start
        committed = await self._value("SELECT clock_timestamp()")
        await self._wait_until_drained()
        last = await self._value(
            "SELECT max(completed_at) FROM scoring.scoring_jobs WHERE profile_id = ANY (%(profiles)s)"
        )
        return self.load.jobs / enqueued, self.load.jobs / (last - committed).total_seconds()

    async def trickle(self) -> tuple[float, list[tuple[float, float]]]:
        """Enqueue at random times, one commit per job; return the rate that one caller could reach, and all waits.

        A job's waits are the seconds from the row's insert to its claim and to its completion.
        """
        loop = asyncio.get_running_loop()
        ids: list[UUID] = []
        spent, at, start = 0.0, 0.0, loop.time()
        while (at := at + random.expovariate(self.load.rate)) < self.load.seconds or not ids:
            await asyncio.sleep(start + at - loop.time())
            before = loop.time()
            async with self.database.session() as session:
                payload = {"profile_id": str(self.profiles[len(ids) % len(self.profiles)]), "prompt": PROMPT}
                ids.append((await enqueue(session, STAGE, payload)).id)
            spent += loop.time() - before
        await self._wait_until_drained()
        cursor = await self.conn.execute(
            "SELECT extract(epoch FROM started_at - created_at)::float8, "
            "extract(epoch FROM completed_at - created_at)::float8 FROM scoring.scoring_jobs WHERE id = ANY (%s)",
            [ids],
        )
        return len(ids) / spent, await cursor.fetchall()

    async def _wait_until_drained(self) -> None:
        """Return when all jobs are completed. Polling takes at most a tenth of the time, for any number of jobs."""
        loop = asyncio.get_running_loop()
        left, moved_at = None, loop.time()
        while True:
            before = loop.time()
            open_, failed = await self._row(
                "SELECT count(*) FILTER (WHERE completed_at IS NULL), "
                "max(error_message) FILTER (WHERE status = 'failed') "
                "FROM scoring.scoring_jobs WHERE profile_id = ANY (%(profiles)s)"
            )
            if failed is not None:
                raise Failed(f"a job of the load test failed: {failed}")
            if not open_:
                return
            if open_ != left:
                left, moved_at = open_, loop.time()
            if loop.time() - moved_at > self.load.stalled_seconds:
                raise Failed(
                    f"no job ended for {self.load.stalled_seconds:.0f} s; {open_} jobs wait: "
                    f"{await self._wait_reason()}"
                )
            await asyncio.sleep(max(_LOAD_POLL_SECONDS, 9 * (loop.time() - before)))

    async def _wait_reason(self) -> str:
        reason = await self._value(
            "SELECT max(wait_reason) FROM runtime.jobs WHERE id = (SELECT id FROM scoring.scoring_jobs "
            "WHERE profile_id = ANY (%(profiles)s) AND completed_at IS NULL LIMIT 1)"
        )
        return str(reason or "they are running")

    async def _value(self, sql: str) -> Any:
        return (await self._row(sql))[0]

    async def _row(self, sql: str) -> tuple[Any, ...]:
        """Return the only row of ``sql``. ``%(profiles)s`` in it stands for the profiles' ids."""
        cursor = await self.conn.execute(sql.encode(), {"profiles": list(self.profiles)})
        row = await cursor.fetchone()
        assert row is not None
        return tuple(row)


def _payloads(profiles: Sequence[UUID], count: int) -> list[dict[str, str]]:
    return [{"profile_id": str(profiles[n % len(profiles)]), "prompt": PROMPT} for n in range(count)]
