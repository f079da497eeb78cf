"""Whose turn it is among analyses of the same records: one at a time, and always somebody's."""

import asyncio
import random
import uuid
from typing import Any

import pytest

from gristmill_testing.waiting import until
from tests.integration.analytics.runs import Runs
from tests.support.fakes.analyses import Analyses
from workers.analytics.analysis_statements import AnalysedRecords, ahead
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
    """Two analyses of the same record, the elder first."""
    project = analyses.project()
    analyses.tasks(project, 1)
    return analyses.put(project), analyses.put(project)


async def test_elder_that_has_begun_nothing_waits_for_a_younger_that_has(
    analyses: Analyses, runs: Runs, pair: tuple[uuid.UUID, uuid.UUID]
) -> None:
    """As one that an operator retries does: the marks of the younger are not taken from it."""
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
async def test_elder_that_is_postponed_is_waited_for_only_if_it_has_begun(
    analyses: Analyses, runs: Runs, pair: tuple[uuid.UUID, uuid.UUID], processed: int, expected: type[Any]
) -> None:
    """What it has judged stays its own; with nothing judged it keeps nobody waiting for an hour."""
    elder_id, younger_id = pair
    change(analyses, elder_id, processed=processed, due=POSTPONED)
    (younger,) = await runs.claim()

    assert isinstance(await runs.perform(younger, OfflineEvaluator()), expected)
    assert younger.id == younger_id


async def test_of_two_that_look_at_once_one_goes_on(
    analyses: Analyses, runs: Runs, pair: tuple[uuid.UUID, uuid.UUID]
) -> None:
    """The younger finds its turn come while the elder is postponed, and gone when it takes it."""
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


async def test_nobody_waits_in_a_circle(analyses: Analyses, database: Database) -> None:
    """Whatever state analyses of all types are in: who waits for whom leads to one who waits for nobody."""
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
                job: await ahead(session, AnalysedRecords(job, project, type_), begun=begun[job])
                for job, type_ in all_jobs.items()
            }
        for job in all_jobs:
            steps, at = 0, job
            while (first := waits_for[at]) is not None:
                at, steps = first, steps + 1
                assert steps <= len(all_jobs), "a circle"
                if running[at]:  # and looks no more
                    break
