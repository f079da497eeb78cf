"""The load generator of `gristmill bench` costs nothing and deletes everything that it creates."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from workers.runtime.refusals import Failed
from workers.scoring.load_generator import Load, measure

SMALL = Load(jobs=100, rate=50, seconds=0.2, free_model="offline-rubric-v1")


@pytest.fixture
async def answering(jobs) -> AsyncIterator[list[str]]:
    """A minimal system that scores all pending jobs as the model named in the list."""
    model = ["offline-rubric-v1"]

    async def work() -> None:
        while True:
            await jobs.sql("UPDATE scoring.scoring_jobs SET dispatched_at = now() WHERE status = 'pending'")
            await jobs.sql(
                "UPDATE scoring.scoring_jobs SET status = 'processing', version = version + 1, started_at = now(), "
                "lease_owner = gen_random_uuid() WHERE status = 'pending' AND dispatched_at IS NOT NULL"
            )
            await jobs.sql(
                "UPDATE scoring.scoring_jobs SET status = 'completed', version = version + 1, completed_at = now(), "
                "progress = 100, parsed_score = jsonb_build_object('model', %s::text) WHERE status = 'processing'",
                model[0],
            )
            await asyncio.sleep(0.01)

    task = asyncio.create_task(work())
    yield model
    task.cancel()


async def test_figures_come_from_the_jobs_own_rows(jobs, database, answering):
    """Rates and waits are those of the jobs' rows; only the history stays."""
    told: list[str] = []

    measured = await measure(database, SMALL, tell=told.append)

    assert measured.jobs == SMALL.jobs
    assert measured.drained_per_second > 0
    assert measured.claimed_after_ms_p50 <= measured.completed_after_ms_p50 <= measured.completed_after_ms_p99
    assert told == ["draining 100 jobs", "50 jobs per second for 0.2 s"]
    assert await jobs.sql("SELECT 1 FROM scoring.profiles UNION ALL SELECT 1 FROM scoring.scoring_jobs") == []


async def test_a_system_that_asks_a_language_model_is_asked_one_question_only(jobs, database, answering):
    """A load test must not cost money: it stops after the first answer and deletes everything."""
    answering[0] = "gpt-4o"

    with pytest.raises(Failed, match=r"^the workers here ask 'gpt-4o', and a load test must cost nothing;"):
        await measure(database, SMALL, tell=lambda _: None)

    [asked] = await jobs.sql("SELECT count(DISTINCT job_id) AS n FROM runtime.transitions")
    assert asked["n"] == 1
    assert await jobs.sql("SELECT 1 FROM scoring.profiles") == []


async def test_a_system_where_nobody_works_is_given_up_with_the_reason(jobs, database):
    """The test ends with the reason, and the jobs are cancelled and deleted."""
    impatient = replace(SMALL, stalled_seconds=0.3)

    with pytest.raises(Failed, match=r"1 jobs wait: no worker for queue scoring$"):
        await measure(database, impatient, tell=lambda _: None)

    assert await jobs.sql("SELECT 1 FROM scoring.profiles UNION ALL SELECT 1 FROM scoring.scoring_jobs") == []
