"""Analyses when the provider is away, the deadline is near or an ingestion runs: nothing is paid for twice."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pytest
from pydantic import BaseModel

from tests.integration.analytics.runs import Runs
from tests.support.fakes.alignment import record_in
from tests.support.fakes.analyses import Analyses
from workers.analytics.summary import SummaryAnswer
from workers.llm.offline import OfflineEvaluator
from workers.runtime.handler.endurance import MAX_IDLE_TIME
from workers.runtime.handler.errors import RateLimited, Retryable
from workers.runtime.handler.outcomes import Complete, Snooze
from workers.runtime.handler.ports import Answer, Message, OfflineRule

T = TypeVar("T", bound=BaseModel)


class Judge(OfflineEvaluator):
    """Answers ``answers`` questions about records by rules; then it is away."""

    def __init__(self, answers: int = 10_000) -> None:
        self.left = answers
        self.judged: Counter[str] = Counter()
        self.reports = 0

    async def resolve(self, model: str) -> str:
        if not self.left:
            raise Retryable("provider failed (HTTP 503)")
        return await super().resolve(model)

    async def parse(
        self,
        messages: Sequence[Message],
        *,
        into: type[T],
        model: str,
        parameters: Mapping[str, Any] | None = None,
        offline: OfflineRule | None = None,
        max_tokens: int | None = None,
        share_for: timedelta | None = None,
    ) -> Answer[T]:
        if into is SummaryAnswer:
            self.reports += 1
            self.report()
        elif not self.left:
            raise Retryable("provider failed (HTTP 503)")
        else:
            self.left -= 1
            self.judged[record_in({"messages": messages}) or ""] += 1
            self.judge()
        return await super().parse(messages, into=into, model=model, parameters=parameters, offline=offline)

    def judge(self) -> None:
        """Called for each question about a record."""

    def report(self) -> None:
        """Called for each question for a report."""


def at(now: datetime) -> Callable[[], datetime]:
    """Return a clock that stands still."""
    return lambda: now


async def test_job_waits_longer_each_time_and_spends_no_attempt(analyses: Analyses, runs: Runs) -> None:
    """5 s, then as long as it has been away, at most 5 minutes; from the start after any progress."""
    project = analyses.project()
    analyses.tasks(project, 70)
    job_id = analyses.put(project)
    began: datetime | None = None
    waits = []

    for answers, minutes in ((5, 0), (0, 2), (0, 45), (3, 70), (0, 70.5)):
        (job,) = await runs.claim()
        began = began or job.started_at
        assert began
        outcome = await runs.perform(job, Judge(answers), clock=at(began + timedelta(minutes=minutes)))
        assert isinstance(outcome, Snooze)
        assert "HTTP 503" in outcome.reason
        waits.append(outcome.delay.total_seconds())
        await runs.settle(job, outcome)

    assert waits == [5, 120, 300, 5, 30]
    row = analyses.row(job_id)
    assert (row.processedCount, row.failedCount, row.retry_count) == (8, 0, 0)


async def test_job_ends_if_its_provider_stays_away(analyses: Analyses, runs: Runs) -> None:
    """When patience ends without progress, the run's error goes to the kernel."""
    project = analyses.project()
    analyses.tasks(project, 1)
    analyses.put(project)
    (job,) = await runs.claim()
    assert job.started_at
    late = job.started_at + MAX_IDLE_TIME
    await runs.settle(job, await runs.perform(job, Judge(0)))
    (job,) = await runs.claim()

    with pytest.raises(Retryable, match="HTTP 503"):
        await runs.perform(job, Judge(0), clock=at(late))


async def test_run_with_little_time_left_leaves_the_rest_to_the_next(analyses: Analyses, runs: Runs) -> None:
    """Five minutes before its deadline it begins no new record. The next run judges only the rest."""
    project = analyses.project()
    analyses.tasks(project, 400)
    job_id = analyses.put(project)
    judge = Judge()
    (job,) = await runs.claim()

    def clock() -> datetime:
        assert job.started_at
        assert job.deadline_at
        return job.deadline_at - timedelta(minutes=5) if judge.judged.total() >= 100 else job.started_at

    outcome = await runs.perform(job, judge, clock=clock)
    await runs.settle(job, outcome)
    done = analyses.row(job_id)
    (again,) = await runs.claim()
    assert isinstance(await runs.perform(again, judge), Complete)

    assert outcome == Snooze(timedelta(), "its time is nearly up: another run goes on")
    assert 100 <= done.processedCount < 400
    assert done.retry_count == 0
    assert (len(judge.judged), judge.judged.total()) == (400, 400)


async def test_record_added_with_a_lower_id_is_judged_too(analyses: Analyses, runs: Runs) -> None:
    """A running ingestion has made its ids before: the analysis looks again until no record is left."""
    project = analyses.project()
    analyses.tasks(project, 200)
    analyses.put(project)

    class Late(Judge):
        def judge(self) -> None:
            if self.judged.total() == 150:  # in the second page
                analyses.run(
                    'INSERT INTO operations.data_records (id, "projectId", type, source, content) '
                    "VALUES ('00000000-0000-7000-8000-000000000001', :p, 'TASK', 'test', 'added late')",
                    p=project,
                )

    (job,) = await runs.claim()
    outcome = await runs.perform(job, Late())

    assert isinstance(outcome, Complete)
    counts = {"total_records": 201, "processed_count": 201, "failed_count": 0}
    assert outcome.values.items() >= counts.items()
    assert "added late" in analyses.judged(project)


async def test_written_report_is_not_written_again(analyses: Analyses, runs: Runs) -> None:
    """After a rate limit between the two reports, the first one is stored and the next run writes only the second."""
    project = analyses.project()
    analyses.tasks(project, 3)
    analyses.records(project, ["Too long for a parent."], type_="FEEDBACK")
    analyses.put(project)

    class Limited(Judge):
        def report(self) -> None:
            if self.reports == 2:
                raise RateLimited("slowly", delay=timedelta(seconds=1))

    judge = Limited()
    (job,) = await runs.claim()
    with pytest.raises(RateLimited):
        await runs.perform(job, judge)
    (between,) = analyses.ask("SELECT * FROM operations.projects")
    await runs.settle(job, Snooze(timedelta(seconds=1), "slowly"))
    (job,) = await runs.claim()
    assert isinstance(await runs.perform(job, judge), Complete)

    (after,) = analyses.ask("SELECT * FROM operations.projects")
    assert between.lastTaskAnalysis.startswith("3 TASK records: ")
    assert between.lastFeedbackAnalysis is None
    assert after.lastTaskAnalysis == between.lastTaskAnalysis
    assert after.lastFeedbackAnalysis.startswith("1 FEEDBACK records: ")
    assert judge.reports == 3
