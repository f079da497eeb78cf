"""Settle many outcomes in one statement, each under its fence: happy, stale, in a wrong state, and twice."""

from datetime import timedelta
from typing import NamedTuple

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings

from tests.support.settlements import SETTLEMENTS
from workers.runtime.handler.outcomes import Cancel, Complete, Fail, Release, Retry, Settlement, Snooze
from workers.runtime.store.intervene import cancel
from workers.runtime.store.settle import find_settled, settle


class Left(NamedTuple):
    """The state in which an outcome leaves a job's first run; ``delay`` is drawn or given."""

    status: str
    action: str
    attempts: int = 0
    terminal: bool = False
    delay: timedelta | None = None


LEFT: list[tuple[Settlement, Left]] = [
    (Complete(), Left("completed", "complete", terminal=True)),
    (Retry("boom"), Left("pending", "retry", attempts=1, delay=timedelta(seconds=1))),
    (Snooze(timedelta(minutes=2), "quota"), Left("pending", "snooze", delay=timedelta(minutes=2))),
    (Release("drain"), Left("pending", "release")),
    (Fail("bad input"), Left("failed", "fail", terminal=True)),
    (Cancel("not wanted"), Left("cancelled", "cancel", terminal=True)),
]
IDS = [left.action for _, left in LEFT]
every_outcome = pytest.mark.parametrize("settlement", [settlement for settlement, _ in LEFT], ids=IDS)


@pytest.mark.parametrize(("settlement", "left"), LEFT, ids=IDS)
async def test_an_outcome_under_its_fence_is_recorded(jobs, settlement, left):
    """State, version, attempts, times and history agree; ticket and deadline are removed."""
    [job] = await jobs.running()

    assert await jobs.settle(job, settlement)

    row = await jobs.row(job.id)
    assert (row["status"], row["version"], row["retry_count"]) == (left.status, 3, left.attempts)
    assert (row["completed_at"] is not None) == left.terminal
    assert (row["lease_owner"], row["started_at"]) == ((jobs.owner, job.started_at) if left.terminal else (None, None))
    assert row["due_at"] == (row["updated_at"] + left.delay if left.delay else None)
    assert (row["dispatched_at"], row["deadline_at"]) == (None, None)
    past = (await jobs.history(job.id))[-1]
    assert (past.old_state, past.new_state, past.version_from, past.version_to) == ("processing", left.status, 2, 3)
    assert (past.change_action, past.change_reason) == (left.action, jobs.outcome(job, settlement).reason)


@every_outcome
async def test_a_stale_run_settles_nothing(jobs, settlement):
    """A worker that lost its job leaves the newer run untouched."""
    [stale] = await jobs.running()
    await jobs.settle(stale, Release("rescued meanwhile"))
    [fresh] = await jobs.running(count=0)
    before = await jobs.row(fresh.id)

    assert not await jobs.settle(stale, settlement)
    assert await jobs.row(fresh.id) == before


@every_outcome
async def test_a_job_that_does_not_run_is_not_settled(jobs, settlement):
    """This holds even under its version: an outcome needs a claim first."""
    [job] = await jobs.running()
    [job_id] = await jobs.ready()
    job.id, job.version = job_id, 1
    before = await jobs.row(job_id)

    assert not await jobs.settle(job, settlement)
    assert await jobs.row(job_id) == before


@every_outcome
async def test_two_settles_of_one_run_record_one(jobs, plain, settlement):
    """The second one waits for the first one's commit and then finds a newer version."""
    [job] = await jobs.running()
    row, rival = jobs.outcome(job, settlement), jobs.outcome(job, Complete())

    won, lost = await jobs.race(
        lambda conn: settle(conn, plain.model, [row]), lambda conn: settle(conn, plain.model, [rival])
    )

    assert (won, lost) == ({job.id}, set())
    assert (await jobs.row(job.id))["version"] == 3
    assert len(await jobs.actions(job.id)) == 3


@every_outcome
async def test_a_settle_that_races_a_cancel_loses_or_wins_whole(jobs, plain, settlement):
    """Any outcome of a cancelled job is refused."""
    [job] = await jobs.running()

    won, lost = await jobs.race(
        lambda conn: cancel(conn, plain.model, [job.id], reason="no more"),
        lambda conn: settle(conn, plain.model, [jobs.outcome(job, settlement)]),
    )

    assert (won, lost) == ({job.id}, set())
    assert (await jobs.row(job.id))["status"] == "cancelled"


async def test_a_batch_records_each_outcome_as_its_own(jobs, plain):
    """One statement records different states, delays and reasons; it skips a stale run."""
    done, again, bad, stale = await jobs.running(count=4)
    await jobs.settle(stale, Release("rescued meanwhile"))
    rows = [
        jobs.outcome(job, settlement)
        for job, settlement in [
            (done, Complete()),
            (again, Retry("boom")),
            (bad, Fail("bad")),
            (stale, Complete()),
        ]
    ]

    async with jobs.database.kernel() as conn:
        accepted = await settle(conn, plain.model, rows)

    assert accepted == {done.id, again.id, bad.id}
    assert [(await jobs.row(job.id))["status"] for job in (done, again, bad)] == ["completed", "pending", "failed"]
    assert (await jobs.row(again.id))["error_message"] == "boom"


async def test_values_reach_their_columns_whatever_their_types(jobs):
    """JSON, numbers and text are read back with the type of the column."""
    [job] = await jobs.running()

    await jobs.settle(job, Complete({"result": {"nested": ["ä", 1.5, None]}, "effects": 7, "key": "k'\"\\"}))

    row = await jobs.row(job.id)
    assert (row["result"], row["effects"], row["key"]) == ({"nested": ["ä", 1.5, None]}, 7, "k'\"\\")


async def test_completing_the_first_step_makes_the_job_ready_for_the_second(jobs):
    """It has no end time and no lease, and the second stage can claim it."""
    [job] = await jobs.running("proving.first")

    await jobs.settle(job, Complete(), "proving.first")

    row = await jobs.row(job.id, "proving.second")
    assert (row["status"], row["completed_at"], row["lease_owner"], row["progress"]) == ("halfway", None, None, 0)
    assert [id_ for id_, _ in await jobs.dispatched("proving.second", count=0)] == [job.id]


async def test_one_bad_row_refuses_the_whole_statement(jobs, plain):
    """The store raises and changes nothing; the settler tries the rows one by one."""
    good, bad = await jobs.running(count=2)
    rows = [jobs.outcome(good, Complete({"key": "k"})), jobs.outcome(bad, Complete({"key": "k" * 51}))]

    async with jobs.database.kernel() as conn:
        with pytest.raises(psycopg.errors.StringDataRightTruncation):
            await settle(conn, plain.model, rows)

    assert await jobs.count(status="processing") == 2


async def test_history_tells_our_own_settle_from_a_lost_fence(jobs):
    """After a commit with a lost answer, ``changed_by`` and the action of the next version decide."""
    mine, theirs, passed_on, open_ = await jobs.running(count=4)
    await jobs.settle(mine, Complete())
    rows = [jobs.outcome(job, Complete()) for job in (mine, theirs, passed_on, open_)]
    async with jobs.database.kernel() as conn:
        async with conn.transaction():
            await conn.execute("SET LOCAL gristmill.changed_by = 'operator'")
            await cancel(conn, type(theirs), [theirs.id], reason="no more")
        await cancel(conn, type(passed_on), [passed_on.id], reason="a person's, through this very worker")

        assert await find_settled(conn, type(mine), rows, changed_by="test") == {mine.id}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(settlement=SETTLEMENTS)
async def test_any_settlement_is_accepted_by_the_database_and_adds_one_to_the_version(jobs, settlement):
    """Every decision is legal for the trigger and for every CHECK of the table."""
    [job] = await jobs.running(count=1)

    assert await jobs.settle(job, settlement)

    row = await jobs.row(job.id)
    assert row["version"] == job.version + 1
    assert row["retry_count"] <= row["max_retries"]
    await jobs.sql("DELETE FROM proving.plain_jobs")
