"""Turns of analyses of the same records: one runs at a time, and one can always run."""

import asyncio
import random
import uuid
from typing import Any

import pytest

from gristmill_testing.waiting import until
from tests.integration.analytics.runs import Runs
from tests.support.fakes.analyses import Analyses
from workers.analytics.analysis_statements import AnalysedRecords, find_earlier_analysis
from workers.llm.offline import OfflineEvaluator
from workers.runtime.database import Database
from workers.runtime.handler.outcomes import Complete, Snooze

POSTPONED = "now() + interval '1 hour'"


def change(analyses: Analyses, job: uuid.UUID, *, processed: int = 0, due: str = "NULL", turn: bool = False) -> None:
    analyses.run(
        f"""UPDATE operations.analytics_jobs SET "processedCount" = :n, due_at = {due},
                   "resumeAt" = CASE WHEN :turn THEN jsonb_build_object('turn', version) END WHERE id = :id""",
        n=processed,
        turn=turn,
        id=job,
    )


@pytest.fixture
def pair(analyses: Analyses) -> tuple[uuid.UUID, uuid.UUID]:
    """Two analyses of the same record, the older first."""
    project = analyses.project()
    analyses.tasks(project, 1)
    return analyses.put(project), analyses.put(project)


async def test_older_analysis_without_judgements_waits_for_a_newer_one_with_some(
    analyses: Analyses, runs: Runs, pair: tuple[uuid.UUID, uuid.UUID]
) -> None:
    """For example after an operator retries it: it does not overwrite the judgements of the newer one."""
    elder_id, younger_id = pair
    change(analyses, younger_id, processed=1)
    elder, younger = await runs.claim()

    waiting = await runs.perform(elder, OfflineEvaluator())
    done = await runs.perform(younger, OfflineEvaluator())

    assert isinstance(waiting, Snooze)
    assert waiting.reason == f"waits for analysis {younger_id} of the same records"
    assert isinstance(done, Complete)
    assert elder.id == elder_id


@pytest.mark.parametrize(("processed", "expected"), [(0, Complete), (1, Snooze)])
async def test_postponed_older_analysis_is_waited_for_only_if_it_has_judged(
    analyses: Analyses, runs: Runs, pair: tuple[uuid.UUID, uuid.UUID], processed: int, expected: type[Any]
) -> None:
    """If it has judged records, they stay its own. If not, nobody waits for it for an hour."""
    elder_id, younger_id = pair
    change(analyses, elder_id, processed=processed, due=POSTPONED)
    (younger,) = await runs.claim()

    assert isinstance(await runs.perform(younger, OfflineEvaluator()), expected)
    assert younger.id == younger_id


async def test_of_two_that_check_at_once_only_one_runs(
    analyses: Analyses, runs: Runs, pair: tuple[uuid.UUID, uuid.UUID]
) -> None:
    """The newer one sees its turn while the older is postponed, and loses it before it takes it."""
    elder_id, younger_id = pair
    change(analyses, elder_id, due=POSTPONED)
    looked, go_on, judge = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Slow(OfflineEvaluator):
        async def resolve(self, model: str) -> str:
            looked.set()
            await go_on.wait()
            return await super().resolve(model)

    class Held(OfflineEvaluator):
        async def parse(self, *messages: Any, **options: Any) -> Any:
            await judge.wait()
            return await super().parse(*messages, **options)

    (younger,) = await runs.claim()
    slow = asyncio.create_task(runs.perform(younger, Slow()))
    await looked.wait()
    change(analyses, elder_id)
    (elder,) = await runs.claim()
    held = asyncio.create_task(runs.perform(elder, Held()))
    await until(lambda: analyses.row(elder_id).totalRecords)
    go_on.set()
    waiting = await slow
    judge.set()

    assert isinstance(waiting, Snooze)
    assert str(elder_id) in waiting.reason
    assert isinstance(await held, Complete)
    assert younger.id == younger_id


async def test_no_analyses_wait_for_each_other(analyses: Analyses, database: Database) -> None:
    """In any states of analyses of all types, following who waits for whom ends at one that waits for nobody."""
    draw = random.Random(11)
    project = analyses.project()
    all_jobs = {analyses.put(project, type=type_): type_ for type_ in [None, "TASK", "FEEDBACK"] * 2}

    for _ in range(10):
        begun = {job: draw.random() < 0.4 for job in all_jobs}
        running = {job: draw.random() < 0.1 for job in all_jobs}
        for job in all_jobs:
            due = draw.choice(["NULL", "now() + interval '10 seconds'", POSTPONED])
            change(analyses, job, processed=int(begun[job]), due=due, turn=running[job])
        async with database.session() as session:
            waits_for = {
                job: await find_earlier_analysis(session, AnalysedRecords(job, project, type_), begun=begun[job])
                for job, type_ in all_jobs.items()
            }
        for job in all_jobs:
            steps, at = 0, job
            while (first := waits_for[at]) is not None:
                at, steps = first, steps + 1
                assert steps <= len(all_jobs), "a circle"
                if running[at]:  # it checks no more
                    break
