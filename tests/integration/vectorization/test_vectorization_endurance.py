"""Vectorization when the provider is away or the deadline is near, and its query plans, on real Postgres."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import IngestJob
from tests.support.fakes.vectorizing import Rows, texts_of
from tests.support.kernel import Jobs
from workers.llm import feature_hash
from workers.llm.offline import OfflineEvaluator
from workers.longrun.retrying import Retries
from workers.runtime.handler.context import CheckpointWrite, Context, Run
from workers.runtime.handler.endurance import MAX_IDLE_TIME
from workers.runtime.handler.errors import Retryable
from workers.runtime.handler.outcomes import Complete, Outcome, Snooze
from workers.runtime.handler.ports import EmbeddingLimits, Embeddings, LanguageModel, Purpose
from workers.runtime.handler.resources import Resources
from workers.runtime.store.checkpoint import checkpoint
from workers.vectorization.embed_records import perform
from workers.vectorization.pending import LOWEST_ID, EmbeddingTarget, RecordsToEmbed
from workers.vectorization.similar import Vector, similar

STAGE = "vectorization.embed"
ONCE = Retries(attempts=1, base=timedelta(), ceiling=timedelta())


class Embedder(OfflineEvaluator):
    """Answers this number of requests; then it is away."""

    embedding_limits = EmbeddingLimits(texts=4, requests=2)

    def __init__(self, answers: int = 10_000) -> None:
        self.left = answers
        self.asked: list[str] = []

    async def embed(self, texts: Sequence[str], *, model: str, purpose: Purpose = "document") -> Embeddings:
        if not self.left:
            raise Retryable("provider failed (HTTP 503)")
        self.left -= 1
        self.asked += texts
        return await super().embed(texts, model=model)


class Runs:
    """Single runs of one job, claimed and settled by the kernel's statements, with a clock of the test."""

    def __init__(self, jobs: Jobs, rows: Rows) -> None:
        self._jobs = jobs
        self._rows = rows

    async def first(self, records: int) -> IngestJob:
        """Claim a job that has loaded this number of records."""
        id_ = self._rows.job()
        self._rows.add(*texts_of(records), job=id_)
        self._rows.start(id_)
        (loading,) = await self._jobs.running("ingestion.ingest", 0)
        await self._jobs.settle(loading, Complete(), "ingestion.ingest")
        return await self.again()

    async def again(self) -> IngestJob:
        await self._jobs.sql("UPDATE operations.ingest_jobs SET due_at = NULL")
        (job,) = await self._jobs.running(STAGE, 0)
        assert isinstance(job, IngestJob)
        return job

    async def perform(self, job: IngestJob, llm: LanguageModel, clock: Callable[[], datetime]) -> Outcome:
        """Settle one run and return its outcome; raise what it raises."""
        database = self._jobs.database

        async def keep(values: Mapping[str, Any], write: CheckpointWrite | None = None) -> None:
            async with database.session() as session:
                assert await checkpoint(session, IngestJob, (job.id, job.version), values)
                if write:
                    await write(session)

        async def progress(_percent: int) -> None:
            raise NotImplementedError

        run = Run(STAGE, job.id, job.version, job.retry_count + 1)
        context = Context(
            run=run,
            resources=Resources(llm=llm),
            session=database.session,
            progress=progress,
            checkpoint=keep,
            clock=clock,
        )
        outcome = await perform(job, context, retries=ONCE)
        assert await self._jobs.settle(job, outcome, STAGE)
        return outcome


@pytest.fixture
def runs(jobs: Jobs, rows: Rows) -> Runs:
    """The test's runs."""
    return Runs(jobs, rows)


def at(now: datetime) -> Callable[[], datetime]:
    """Return a clock that stands still."""
    return lambda: now


async def test_job_waits_longer_each_time_until_patience_ends(runs: Runs, rows: Rows) -> None:
    """No attempt is spent: 5 s, then as long as it has been away, at most 5 minutes; from the start after any progress.

    When patience ends without progress, the error goes to the kernel.
    """
    job = await runs.first(20)
    assert job.started_at
    began, waits = job.started_at, []

    for answers, minutes in ((2, 0), (0, 2), (0, 45), (1, 70), (0, 70.5)):
        outcome = await runs.perform(job, Embedder(answers), at(began + timedelta(minutes=minutes)))
        assert isinstance(outcome, Snooze)
        assert "HTTP 503" in outcome.reason
        waits.append(outcome.delay.total_seconds())
        job = await runs.again()
    with pytest.raises(Retryable, match="HTTP 503"):
        await runs.perform(job, Embedder(0), at(began + timedelta(minutes=71) + MAX_IDLE_TIME))

    assert waits == [5, 120, 300, 5, 30]
    assert (rows.row(job.id)["embeddedCount"], rows.row(job.id)["retry_count"]) == (12, 0)


async def test_run_with_little_time_left_leaves_the_rest_to_the_next(runs: Runs, rows: Rows) -> None:
    """Five minutes before its deadline it sends nothing more. The next run sends only the rest."""
    job, llm = await runs.first(400), Embedder()
    texts = texts_of(400)

    def clock() -> datetime:
        assert job.started_at
        assert job.deadline_at
        return job.deadline_at - timedelta(minutes=5) if len(llm.asked) >= 100 else job.started_at

    first = await runs.perform(job, llm, clock)
    done = rows.row(job.id)
    job = await runs.again()
    second = await runs.perform(job, llm, lambda: done["createdAt"])

    assert first == Snooze(timedelta(), "its time is nearly up: another run goes on")
    assert 100 <= done["embeddedCount"] < 400
    assert isinstance(second, Complete)
    assert sorted(llm.asked) == sorted(texts)


async def plan_of(session: AsyncSession, ask: Callable[[], Any]) -> str:
    """Return the plan of the last statement that ``ask`` sends."""
    sent: list[tuple[str, Any]] = []
    connection = (await session.connection()).sync_connection
    assert connection

    def remember(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", remember)
    await ask()
    event.remove(connection, "before_cursor_execute", remember)
    statement, parameters = next(one for one in reversed(sent) if "ORDER BY" in one[0])
    plan = await (await session.connection()).exec_driver_sql(f"EXPLAIN {statement}", parameters)
    return "\n".join(plan.scalars())


async def test_records_without_a_vector_are_found_by_an_index_of_their_own(session: AsyncSession) -> None:
    """Reading the next page of pending records reads no record that has its vector."""
    connection = await session.connection()
    project = (
        await connection.exec_driver_sql("INSERT INTO operations.projects (name) VALUES ('p') RETURNING id")
    ).scalar_one()
    await connection.exec_driver_sql(
        """INSERT INTO operations.data_records ("projectId", type, source, content, embedding, "embeddingModel")
           SELECT %s, 'TASK', 's', 'c' || n, CASE WHEN n > 20 THEN '{1}'::real[] ELSE '{}' END,
                  CASE WHEN n > 20 THEN 'm' END FROM generate_series(1, 5000) AS n""",
        (project,),
    )
    await connection.exec_driver_sql("ANALYZE operations.data_records")
    scope = RecordsToEmbed(LOWEST_ID, project, "TASK", own=False)

    plan = await plan_of(session, lambda: scope.page(session, "empty", EmbeddingTarget("m"), after=LOWEST_ID, limit=10))

    assert "ix_data_records_pending" in plan
    assert "cardinality" not in plan


async def test_vectors_of_other_models_are_not_measured(session: AsyncSession) -> None:
    """If every record is compared, the model is compared first, because the length needs the whole vector."""
    to = Vector(feature_hash.vector("a poem"), "m")

    plan = await plan_of(session, lambda: similar(session, to=to, type_="TASK", exact=True))

    (filtered,) = (line for line in plan.splitlines() if "cardinality" in line)
    assert filtered.index("embeddingModel") < filtered.index("cardinality")
