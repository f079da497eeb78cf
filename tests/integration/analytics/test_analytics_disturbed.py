"""Analyses with rate limits, refusals, cancels, model changes, races and deletions: nothing is paid for twice."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

import pytest

from gristmill_testing.mill import Heard, mill
from gristmill_testing.waiting import until
from models.operations import AnalyticsJob
from tests.support.fakes.analyses import BUSY_SECONDS, TASK, Analyses, asked_about
from tests.support.fakes.openai_server import FakeOpenAI
from workers.llm.offline import OfflineEvaluator
from workers.runtime.database import Database
from workers.runtime.handler.errors import Permanent, RateLimited
from workers.runtime.handler.ports import EmbeddingLimits, Embeddings, Purpose
from workers.runtime.handler.registry import Registry
from workers.runtime.store.intervene import cancel


async def test_analyses_of_the_same_records_take_turns(
    asking: AbstractAsyncContextManager[Heard], analyses: Analyses, fake: FakeOpenAI
) -> None:
    """The newer one begins when the older has ended. Both judge every record once."""
    project = analyses.project()
    analyses.tasks(project, 20)
    fake.script(default={"kind": "answer", "delay_ms": 100})

    async with asking:
        first, second = analyses.put(project, model_name="judge-1"), analyses.put(project, model_name="judge-2")
        waiting = await analyses.until(second, "snooze")
        done = await analyses.until(first, "complete")
        analyses.run("UPDATE operations.analytics_jobs SET due_at = now() WHERE id = :id", id=second)
        later = await analyses.until(second, "complete")

    assert f"waits for analysis {first}" in waiting.change_reason
    assert (done.processedCount, later.processedCount, later.retry_count) == (20, 20, 0)
    assert set(asked_about(fake).values()) == {2}
    assert {one["alignmentJobId"] for one in analyses.judged(project).values()} == {second}
    assert later.started_at > done.completed_at
    rated = analyses.ask(
        'SELECT "llmModel" AS model, count(*) AS n FROM operations.likert_scores GROUP BY 1 ORDER BY 1'
    )
    assert [(row.model, row.n) for row in rated] == [("judge-1", 20), ("judge-2", 20)]


async def test_analyses_of_different_records_do_not_wait_for_each_other(
    asking: AbstractAsyncContextManager[Heard], analyses: Analyses, fake: FakeOpenAI
) -> None:
    """An earlier analysis of another type or project does not delay it."""
    project, other = analyses.project(), analyses.project()
    analyses.tasks(project, 5)
    analyses.tasks(other, 1)
    analyses.records(project, ["Too long for a parent."], type_="FEEDBACK")
    fake.script(rules=[{"about": "Write an email", "kind": "hang"}])

    async with asking:
        slow = analyses.put(project, type="TASK")
        await until(lambda: fake.calls, within=BUSY_SECONDS)
        row = await analyses.until(analyses.put(project, type="FEEDBACK"), "complete", "snooze")
        assert analyses.row(slow).completed_at is None
        fake.script(rules=[])

    assert row.status == "COMPLETED"


async def test_rate_limit_of_embeddings_keeps_the_records_embedded_before_it(
    asking: AbstractAsyncContextManager[Heard], analyses: Analyses, fake: FakeOpenAI
) -> None:
    """They are judged at once. The next run embeds only the rest, however often it is stopped."""
    project = analyses.project()
    analyses.tasks(project, 150)
    limited = {"kind": "status", "status": 429, "retry_after": "1"}
    fake.script(embeddings={"faults": [None, None, limited, None, limited]})

    async with asking:
        job = analyses.put(project)
        snoozed = await analyses.until(job, "snooze")
        done = await analyses.until(job, "complete")

    assert 0 < snoozed.processedCount <= 64
    assert (done.processedCount, done.failedCount, done.retry_count) == (150, 0, 0)
    assert set(asked_about(fake).values()) == {1}
    embedded = Counter(fake.embedder.texts())
    assert {embedded[content] for content in analyses.judged(project)} == {1}


async def test_embedder_that_refuses_the_key_makes_the_job_wait_and_fails_no_record(
    asking: AbstractAsyncContextManager[Heard], analyses: Analyses, fake: FakeOpenAI
) -> None:
    """People must repair a refused key: the job waits, and no record fails."""
    project = analyses.project()
    analyses.tasks(project, 100)
    fake.script(embeddings={"faults": [None, *[{"kind": "status", "status": 403}] * 9]})

    async with asking:
        job = analyses.put(project)
        row = await analyses.until(job, "complete", "fail", "snooze")

    assert (row.status, row.retry_count) == ("PENDING", 0)
    assert "refused the credentials" in row.change_reason
    assert analyses.failures(job) == {}
    assert len(fake.embedder.requests) <= 4


async def test_rate_limit_keeps_what_is_done_and_costs_no_attempt(
    asking: AbstractAsyncContextManager[Heard], analyses: Analyses, fake: FakeOpenAI
) -> None:
    """After a 429 the job waits as long as the provider says, then judges only the rest."""
    project = analyses.project()
    analyses.tasks(project, 60)
    answers: list[dict[str, Any]] = [{"kind": "answer"}] * 20
    fake.script(queue=[*answers, {"kind": "status", "status": 429, "retry_after": "1"}])

    async with asking:
        job = analyses.put(project)
        snoozed = await analyses.until(job, "snooze")
        done = await analyses.until(job, "complete")

    assert 20 <= snoozed.processedCount < 60
    assert done.retry_count == 0
    assert done.processedCount == 60
    assert sorted(asked_about(fake).values()) == [1] * 59 + [2]


@pytest.mark.parametrize("count", [3, 40])
async def test_job_waits_on_refused_credentials_and_no_record_fails(
    asking: AbstractAsyncContextManager[Heard], analyses: Analyses, fake: FakeOpenAI, count: int
) -> None:
    """The error is the job's. The next run judges the records."""
    project = analyses.project()
    analyses.tasks(project, count)
    fake.script(default={"kind": "status", "status": 401})

    async with asking:
        job = analyses.put(project)
        row = await analyses.until(job, "fail", "snooze")

    assert "refused the credentials" in row.change_reason
    assert (row.status, row.retry_count, row.processedCount, row.failedCount) == ("PENDING", 0, 0, 0)
    assert analyses.failures(job) == {}
    assert fake.calls <= 43


async def test_job_waits_while_the_provider_is_down(
    asking: AbstractAsyncContextManager[Heard], analyses: Analyses, fake: FakeOpenAI
) -> None:
    """No record fails and no attempt is spent. Another run of the job judges them all."""
    project = analyses.project()
    analyses.tasks(project, 40)
    fake.script(default={"kind": "status", "status": 503})

    async with asking:
        job = analyses.put(project)
        snoozed = await analyses.until(job, "snooze")
        fake.script(default={"kind": "answer"})
        done = await analyses.until(job, "complete")

    assert "HTTP 503" in snoozed.change_reason
    assert snoozed.failedCount == 0
    assert (done.processedCount, done.failedCount, done.retry_count) == (40, 0, 0)


async def test_cancelled_job_makes_no_more_calls_and_keeps_its_results(
    asking: AbstractAsyncContextManager[Heard], analyses: Analyses, fake: FakeOpenAI, database: Database
) -> None:
    """After the run has stopped no call follows. Committed results stay."""
    project = analyses.project()
    analyses.tasks(project, 200)
    fake.script(queue=[{"kind": "answer"}] * 10, default={"kind": "answer", "delay_ms": 9_000})

    async with asking as heard:
        job = analyses.put(project)
        await until(lambda: analyses.row(job).processedCount, within=BUSY_SECONDS)
        async with database.kernel() as connection:
            await cancel(connection, AnalyticsJob, [job], reason="no longer wanted")
        await until(lambda: ("stopped", "analytics.align", job) in heard.events, within=BUSY_SECONDS)
        calls = fake.calls
        await until(lambda: not fake.snapshot()["in_flight"], within=BUSY_SECONDS)
        row = analyses.row(job)

    assert fake.calls == calls < 200
    assert row.status == "CANCELLED"
    assert 0 < row.processedCount == len(analyses.judged(project)) <= 10


async def test_changed_embedding_model_is_used_by_the_next_run(
    database_url: str, registry: Registry, analyses: Analyses
) -> None:
    """No record fails. Another run embeds the guidelines with the new model and continues."""

    class Switched(OfflineEvaluator):
        name = "first"

        async def embedding_model(self) -> str:
            return self.name

        async def embed(self, texts: Sequence[str], *, model: str, purpose: Purpose = "document") -> Embeddings:
            if model == "first" and TASK[:12] in texts[0]:
                self.name = "second"
            if model != self.name:
                raise Permanent(f"embedding model {model!r} is not here")
            return await super().embed(texts, model=await super().embedding_model())

    project = analyses.project()
    analyses.tasks(project, 20)

    async with mill(database_url, registry, Switched()):
        job = analyses.put(project)
        snoozed = await analyses.until(job, "snooze")
        done = await analyses.until(job, "complete")

    assert "embedding model changed from 'first' to 'second'" in snoozed.change_reason
    assert (done.processedCount, done.failedCount, done.retry_count) == (20, 0, 0)
    models = analyses.ask('SELECT DISTINCT "embeddingModel" AS name FROM operations.guideline_passages ORDER BY 1')
    assert [row.name for row in models] == ["first", "second"]


async def test_records_deleted_while_they_are_judged_leave_nothing(
    asking: AbstractAsyncContextManager[Heard], analyses: Analyses, fake: FakeOpenAI
) -> None:
    """The job ends with the remaining records. Deleted records have no rating and no failure."""
    project = analyses.project()
    records = analyses.tasks(project, 40)
    fake.script(default={"kind": "answer", "delay_ms": 400})

    async with asking:
        job = analyses.put(project)
        await until(lambda: fake.calls, within=BUSY_SECONDS)
        await analyses.meanwhile("DELETE FROM operations.data_records WHERE id = ANY (:ids)", ids=records[::2])
        row = await analyses.until(job, "complete")

    assert (row.totalRecords, row.processedCount, row.failedCount) == (20, 20, 0)
    assert {row.recordId for row in analyses.ask("SELECT * FROM operations.likert_scores")} == set(records[1::2])


async def test_project_deleted_while_it_is_analysed_leaves_nothing(
    asking: AbstractAsyncContextManager[Heard], analyses: Analyses, fake: FakeOpenAI
) -> None:
    """No row is left, nothing crashes, no deadlock: the worker runs the next job."""
    doomed, other = analyses.project(), analyses.project()
    analyses.tasks(doomed, 200)
    analyses.tasks(other, 3)
    fake.script(default={"kind": "answer", "delay_ms": 30})

    async with asking:
        job = analyses.put(doomed)
        await until(lambda: analyses.row(job).processedCount, within=BUSY_SECONDS)
        await analyses.meanwhile("DELETE FROM operations.projects WHERE id = :id", id=doomed)
        await analyses.until(analyses.put(other), "complete")

    assert analyses.row(job) is None
    assert len(analyses.judged(other)) == 3
    assert len(analyses.ask("SELECT id FROM operations.data_records")) == 3
    assert len(analyses.ask("SELECT id FROM operations.likert_scores")) == 3


async def test_rate_limit_during_the_guidelines_keeps_embedded_passages(
    database_url: str, registry: Registry, analyses: Analyses
) -> None:
    """Each passage is embedded once, however often a rate limit stops the job. No attempt is spent."""

    class Limited(OfflineEvaluator):
        embedding_limits = EmbeddingLimits(texts=1, requests=2)

        def __init__(self) -> None:
            self.answered: Counter[str] = Counter()
            self.asked = 0

        async def embed(self, texts: Sequence[str], *, model: str, purpose: Purpose = "document") -> Embeddings:
            self.asked += 1
            if self.asked % 3 == 0:
                raise RateLimited("slowly", delay=timedelta(seconds=0.1))
            await asyncio.sleep(0.05)
            self.answered.update(texts)
            return await super().embed(texts, model=model)

    llm = Limited()
    project = analyses.project()
    analyses.tasks(project, 1)

    async with mill(database_url, registry, llm):
        done = await analyses.until(analyses.put(project), "complete")

    kept = analyses.ask('SELECT ordinal, "of", content FROM operations.guideline_passages ORDER BY ordinal')
    assert len(kept) > 3
    assert [(row.ordinal, row.of) for row in kept] == [(n + 1, len(kept)) for n in range(len(kept))]
    assert {row.content: llm.answered[row.content] for row in kept} == {row.content: 1 for row in kept}
    assert (done.retry_count, done.status) == (0, "COMPLETED")


async def test_guidelines_with_missing_rows_are_completed(
    offline: AbstractAsyncContextManager[Heard], analyses: Analyses
) -> None:
    """A prune removed some, or another release split the document differently: no record is judged by only a part."""
    project = analyses.project()
    analyses.tasks(project, 1)
    count = 'SELECT count(*) AS n, min("of") AS least, max("of") AS most FROM operations.guideline_passages'

    async with offline:
        await analyses.until(analyses.put(project), "complete")
        (whole,) = analyses.ask(count)
        await analyses.meanwhile("DELETE FROM operations.guideline_passages WHERE ordinal > 2")
        await analyses.until(analyses.put(project), "complete")
        (mended,) = analyses.ask(count)
        await analyses.meanwhile('UPDATE operations.guideline_passages SET "of" = "of" + 1')
        await analyses.until(analyses.put(project), "complete")
        (remade,) = analyses.ask(count)

    assert whole.n == whole.least == whole.most > 2
    assert whole == mended == remade
