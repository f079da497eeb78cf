"""Cancel and retry one job at the version that a person saw: of two people one wins, and the audit names them."""

import asyncio
import uuid

import pytest

from tests.support.kernel import PLAIN
from workers.runtime.actor import Actor
from workers.runtime.handler.outcomes import Complete, Fail
from workers.runtime.operate.changes import CANCEL, ChangeCounts, cancel_job, change_jobs, retry_job
from workers.runtime.operate.jobs import JobFilter, UnknownJob, enqueue_job
from workers.runtime.refusals import Conflict, Kind, StaleVersion

ANN = Actor(
    changed_by="person:ann",
    change_reason="asked by phone",
    ip_address="192.0.2.7",
    context={"ticket": 7},
    user_agent="t",
)


async def on(jobs, change, *arguments, **options):
    """Make one change on a separate connection."""
    async with jobs.database.kernel() as conn:
        return await change(conn, *arguments, **options)


async def last(jobs, job_id):
    return (await jobs.history(job_id))[-1]


async def test_a_cancel_names_its_actor_and_returns_the_job_as_it_is_then(jobs):
    """The history has the actor, reason, address, client and the caller's own context."""
    [job_id] = await jobs.ready()

    job = await on(jobs, cancel_job, job_id, ANN, version=1)

    assert (job.status, job.version) == ("cancelled", 2)
    past = await last(jobs, job_id)
    assert (past.change_action, past.changed_by, past.change_reason) == ("cancel", "person:ann", "asked by phone")
    assert (str(past.ip_address), past.user_agent, past.context) == ("192.0.2.7", "t", {"ticket": 7})


async def test_the_next_change_of_the_same_connection_is_not_the_actors(jobs):
    """An actor acts in one transaction: a pooled connection does not keep it for the next one."""
    first, second = await jobs.ready(count=2)

    async with jobs.database.kernel() as conn:
        await cancel_job(conn, first, ANN)
        await cancel_job(conn, second, Actor())

    past = await last(jobs, second)
    assert (past.changed_by, past.context, past.change_reason) == ("test", None, "cancelled by an operator")


async def test_a_stale_version_changes_nothing(jobs):
    """The job has changed since the person saw it: they must look again."""
    [job] = await jobs.running()

    with pytest.raises(StaleVersion, match=rf"job {job.id} is at version 2, got version 1") as caught:
        await on(jobs, cancel_job, job.id, ANN, version=1)

    assert caught.value.kind is Kind.CONFLICT
    assert (await jobs.row(job.id))["status"] == "processing"


@pytest.mark.parametrize(
    ("outcome", "change", "why"),
    [
        (Complete(), cancel_job, "is completed already"),
        (Complete(), retry_job, "is completed, only a failed one can be retried"),
        (Fail("bad"), cancel_job, "is failed already"),
    ],
)
async def test_a_job_in_another_state_is_a_conflict(jobs, outcome, change, why):
    """The error says the job's state."""
    [job] = await jobs.running()
    await jobs.settle(job, outcome)

    with pytest.raises(Conflict, match=why):
        await on(jobs, change, job.id, ANN)

    assert len(await jobs.history(job.id)) == 3


async def test_a_failed_job_is_retried_at_the_version_that_was_seen(jobs):
    """The job is ready again, and the history names the actor."""
    [job] = await jobs.running()
    await jobs.settle(job, Fail("bad"))

    again = await on(jobs, retry_job, job.id, ANN, version=3)

    assert (again.status, again.version, again.error_message) == ("pending", 4, "bad")
    assert (await last(jobs, job.id)).changed_by == "person:ann"


@pytest.mark.parametrize("change", [cancel_job, retry_job])
async def test_an_unknown_job_is_not_found(jobs, change):
    """This holds for both changes."""
    with pytest.raises(UnknownJob) as caught:
        await on(jobs, change, uuid.uuid4(), ANN)

    assert caught.value.kind is Kind.NOT_FOUND


async def test_of_two_people_who_cancel_at_once_one_wins(jobs):
    """The other person gets the job's new state."""
    [job_id] = await jobs.ready()

    done = await asyncio.gather(
        *(on(jobs, cancel_job, job_id, Actor(changed_by=name), version=1) for name in ("ann", "bob")),
        return_exceptions=True,
    )

    assert sorted(type(one).__name__ for one in done) == ["JobView", "StaleVersion"]
    assert await jobs.actions(job_id) == ["enqueue", "cancel"]


async def test_a_cancel_and_a_settle_that_meet_leave_one_end(jobs):
    """The cancel waits for the row; then it either succeeds or says how the job ended."""
    [job] = await jobs.running()

    done = await asyncio.gather(on(jobs, cancel_job, job.id, ANN), jobs.settle(job, Complete()), return_exceptions=True)

    won = not isinstance(done[0], Conflict)
    assert won is not done[1]
    assert (await jobs.actions(job.id))[2:] == ["cancel" if won else "complete"]


async def test_a_change_of_many_names_its_actor_on_each(jobs):
    """All jobs of a page are changed in one transaction."""
    ids = await jobs.ready(count=3)
    changed = ChangeCounts()

    await on(jobs, change_jobs, CANCEL, JobFilter(stage=PLAIN), ANN, changed=changed)

    assert changed.done == 3
    assert {(await last(jobs, job_id)).changed_by for job_id in ids} == {"person:ann"}


async def test_an_enqueued_job_names_its_actor(jobs):
    """Only this job names the actor: afterwards the transaction has its old settings."""
    async with jobs.database.session() as session:
        mine = await enqueue_job(session, PLAIN, {}, ANN, idempotency_key="k")
        other = await enqueue_job(session, PLAIN, {}, Actor())

    assert mine.created
    assert [(await last(jobs, one.id)).changed_by for one in (mine, other)] == ["person:ann", "test"]
