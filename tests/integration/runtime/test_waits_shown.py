"""How waiting jobs and a domain's own final states are shown: reasons, counts, filters, commands."""

import asyncio
import re
from datetime import timedelta

import pytest

from tests.support.command_line import as_json
from tests.support.proving.models import SECOND_OPINION
from tests.support.waits import ACT, ASK, awaiting_agent, decided, expired, overdue, waiting
from workers.runtime.beat.maintenance import expire_waits
from workers.runtime.handler.outcomes import Complete, Fail
from workers.runtime.operate.why import explain
from workers.runtime.store.failures import find_causes
from workers.runtime.store.intervene import pause, retry
from workers.runtime.store.read import JobFilter, get_job, list_jobs
from workers.runtime.store.stages import list_stages
from workers.runtime.store.verify import verify_history

_HOUR = timedelta(hours=1)
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"


async def viewed(jobs, job_id):
    async with jobs.database.kernel() as conn:
        job = await get_job(conn, job_id)
        assert job is not None
        return job, await explain(conn, job)


async def test_a_waiting_job_says_for_what_and_until_when(jobs):
    """This does not depend on a paused stage or missing workers."""
    [(job_id, _)] = await waiting(jobs)
    async with jobs.database.kernel() as conn:
        await pause(conn, ASK, by="anna")

    job, shown = await viewed(jobs, job_id)

    assert re.fullmatch(f"waiting for an approval until {TIME}", job.wait_reason or "")
    assert (job.stage, job.status, job.shown_as) == (ASK, "awaiting_approval", "in review")
    assert (shown.summary, shown.remedy) == (job.wait_reason, None)


async def test_a_wait_that_is_over_waits_for_beat(jobs):
    """The remedy is shown too."""
    [(job_id, _)] = await overdue(jobs)

    job, shown = await viewed(jobs, job_id)

    assert re.fullmatch(f"expired at {TIME}, waiting for beat", job.wait_reason or "")
    assert "gristmill beat" in (shown.remedy or "")


async def test_an_end_of_the_domain_is_told_by_its_name(jobs):
    """It is not shown as a failure, and no retry is suggested."""
    [(job_id, _)] = await overdue(jobs)
    await expired(jobs)

    _, shown = await viewed(jobs, job_id)

    assert shown.summary.startswith("lapsed: waited for an approval until ")
    assert shown.remedy is None


async def test_a_job_belongs_to_the_step_from_which_it_waits(jobs):
    """This holds in the view, the counts and the filter by stage."""
    await waiting(jobs, 2)
    agent, _ = await awaiting_agent(jobs)

    async with jobs.database.kernel() as conn:
        stages = {one.stage: one for one in await list_stages(conn)}
        listed = {stage: await list_jobs(conn, JobFilter(stage=stage), limit=9) for stage in (ASK, ACT)}

    assert (stages[ASK].waiting, stages[ACT].waiting) == (2, 1)
    assert [job.id for job in listed[ACT]] == [agent]
    assert len(listed[ASK]) == 2


@pytest.mark.parametrize(
    ("status", "count"),
    [("waiting", 3), ("ready", 1), ("open", 3), ("in review", 2), ("AWAITING_APPROVAL", 1), (SECOND_OPINION, 1),
     ("ended", 3), ("completed", 1), ("failed", 1), ("cancelled", 1), ("lapsed", 1), ("rejected", 1)],
)  # fmt: skip
async def test_jobs_are_found_by_the_names_of_their_states(jobs, status, count):
    """Filters accept groups, states and public names; a final state counts as declared."""
    await overdue(jobs)
    await expired(jobs)
    two = await waiting(jobs, 4)
    await decided(jobs, two[:1], "rejected")
    await decided(jobs, two[1:2], "waived")
    await decided(jobs, two[2:3], SECOND_OPINION, until=_HOUR)
    await jobs.ready(ASK)

    async with jobs.database.kernel() as conn:
        found = await list_jobs(conn, JobFilter(status=status), limit=99)

    assert len(found) == count


async def test_ends_are_counted_by_their_kind_in_the_stage_where_the_job_ended(jobs):
    """Good, bad and neutral ends are counted with completed, failed and cancelled, also by the check of histories."""
    await overdue(jobs)
    await expired(jobs)
    rejected, waived, *approved = await waiting(jobs, 4)
    await decided(jobs, [rejected], "rejected")
    await decided(jobs, [waived], "waived")
    await decided(jobs, approved, "approved")
    first, second = await jobs.running(ACT, 0)
    await jobs.settle(first, Complete(), ACT)
    await jobs.settle(second, Fail("bad luck"), ACT)

    async with jobs.database.kernel() as conn:
        stages = {one.stage: one for one in await list_stages(conn)}
        checks = {one.stage: one for one in await verify_history(conn)}
        found = {(one.stage, one.failed) for one in (await find_causes(conn)).causes}

    assert [(stages[s].failed, stages[s].cancelled, stages[s].completed) for s in (ASK, ACT)] == [
        (1, 1, None),
        (1, 0, 2),
    ]
    assert found == {(ASK, 1), (ACT, 1)}
    assert all(one.violations == 0 for one in checks.values())
    assert sum(one.completed for one in checks.values()) == 2
    assert sum(one.failed for one in checks.values()) == 2


async def test_a_job_that_failed_in_its_first_step_belongs_to_it_and_is_retried_there(jobs):
    """This holds in the view, the counts and a bulk retry; nothing moves it past that step."""
    [job] = await jobs.running(ASK)
    await jobs.settle(job, Fail("bad"), ASK)

    async with jobs.database.kernel() as conn:
        [listed] = await list_jobs(conn, JobFilter(stage=ASK, status="failed"), limit=9)
        assert await list_jobs(conn, JobFilter(stage=ACT, status="failed"), limit=9) == []
        await retry(conn, type(job), [job.id], reason="again")

    assert listed.id == job.id
    assert (await jobs.row(job.id, ASK))["status"] == "pending"


async def test_beat_ends_every_wait_that_is_over(jobs):
    """Beat ends the waits of every table in batches, each once."""
    await overdue(jobs, 3)
    await waiting(jobs)

    first, second = await expire_waits(jobs.database), await expire_waits(jobs.database)

    assert (first["proving.waiting_jobs"], second["proving.waiting_jobs"]) == (3, 0)


async def test_waiting_jobs_are_listed_explained_and_cancelled_by_command(jobs, gristmill):
    """Commands treat them like all jobs that have not ended."""
    [(job_id, _)] = await waiting(jobs)

    [listed] = await asyncio.to_thread(as_json, gristmill, "jobs", "list", "--status", "in review")
    explained = await asyncio.to_thread(as_json, gristmill, "jobs", "why", str(job_id))
    code, output, _ = await asyncio.to_thread(gristmill, "jobs", "cancel", str(job_id))

    assert listed["id"] == str(job_id)
    assert explained["wait_reason"].startswith("waiting for an approval until ")
    assert (code, (await jobs.row(job_id, ASK))["status"]) == (0, "cancelled"), output
