"""Rescue and prune: free jobs that nobody will finish, delete jobs that nobody needs."""

from datetime import timedelta

import pytest

from workers.runtime.handler.outcomes import Complete, Fail
from workers.runtime.store.intervene import cancel, retry
from workers.runtime.store.processes import WorkerRow, beat_heart
from workers.runtime.store.rescue import DEADLINE_MARGIN, prune, rescue_expired
from workers.runtime.store.settle import settle

LONG = timedelta(hours=1)  # the leader has led for longer than any lease


async def rescue(jobs, stage, *, led_for: timedelta = LONG) -> int:
    async with jobs.database.kernel() as conn:
        return await rescue_expired(conn, stage, led_for=led_for)


async def silence(jobs, seconds: float) -> None:
    """Set every worker's last heartbeat to this long ago."""
    await jobs.sql("UPDATE runtime.workers SET heartbeat_at = now() - make_interval(secs => %s)", seconds)


async def test_the_job_of_a_silent_worker_runs_again_at_once_for_one_attempt(jobs, plain):
    """The first rescue does not delay the job; the job's last error says the reason."""
    await jobs.worker(worker_id=jobs.owner, lease_seconds=10)
    [job] = await jobs.running()
    await silence(jobs, 11)

    assert await rescue(jobs, plain) == 1

    row = await jobs.row(job.id)
    assert (row["status"], row["version"], row["retry_count"], row["due_at"]) == ("pending", 3, 1, None)
    assert (row["lease_owner"], row["dispatched_at"], row["deadline_at"], row["progress"]) == (None, None, None, 0)
    past = (await jobs.history(job.id))[-1]
    assert (past.change_action, past.change_reason) == ("rescue", "worker fell silent")
    assert row["error_message"] == "worker fell silent"


async def test_the_job_of_a_worker_without_a_row_is_rescued(jobs, plain):
    """No lease covers it."""
    await jobs.running()

    assert await rescue(jobs, plain) == 1


async def test_a_living_worker_keeps_its_jobs_however_long_they_take(jobs, plain):
    """The age of a run does not count: a long job does not run twice."""
    await jobs.worker(worker_id=jobs.owner, lease_seconds=10)
    await jobs.running()
    await jobs.unguarded("UPDATE proving.plain_jobs SET started_at = now() - interval '2 days'")

    assert await rescue(jobs, plain) == 0


async def test_no_lease_ends_sooner_than_its_length_after_the_leader_began(jobs, plain):
    """While Postgres was away, no worker could write a heartbeat; now they have time to do it."""
    await jobs.worker(worker_id=jobs.owner, lease_seconds=10)
    await jobs.running()
    await silence(jobs, 3_600)

    assert await rescue(jobs, plain, led_for=timedelta(seconds=9)) == 0
    assert await rescue(jobs, plain, led_for=timedelta(seconds=11)) == 1


async def test_a_deadline_long_past_is_rescued_from_a_living_worker(jobs, plain):
    """A process that hangs still writes heartbeats; the job is freed after its deadline plus a margin."""
    await jobs.worker(worker_id=jobs.owner)
    [job] = await jobs.running()
    await jobs.sql("UPDATE proving.plain_jobs SET deadline_at = now() - %s + interval '1 second'", DEADLINE_MARGIN)
    assert await rescue(jobs, plain) == 0

    await jobs.sql("UPDATE proving.plain_jobs SET deadline_at = now() - %s - interval '1 second'", DEADLINE_MARGIN)

    assert await rescue(jobs, plain) == 1
    assert (await jobs.history(job.id))[-1].change_reason == "deadline passed"


async def test_a_job_that_silences_every_worker_fails_in_the_end(jobs, plain):
    """Each rescue costs an attempt and delays the job longer than the last one, so it cannot loop forever."""
    [job] = await jobs.running()
    waits = []
    for _ in range(5):
        await rescue(jobs, plain)
        row = await jobs.row(job.id)
        waits.append((row["due_at"] - row["updated_at"]).total_seconds() if row["due_at"] else 0)
        await jobs.sql("UPDATE proving.plain_jobs SET due_at = NULL")
        await jobs.running(count=0)

    assert await rescue(jobs, plain) == 1

    row = await jobs.row(job.id)
    assert (row["status"], row["retry_count"], row["error_message"]) == ("failed", 5, "worker fell silent")
    assert row["completed_at"] is not None
    assert waits == [0, 2, 4, 8, 16]


async def test_the_rescued_run_can_settle_nothing_any_more(jobs, plain):
    """The worker was only slow: its outcome has an old fence."""
    [stale] = await jobs.running()
    await rescue(jobs, plain)

    assert not await jobs.settle(stale, Complete())
    assert (await jobs.row(stale.id))["status"] == "pending"


@pytest.mark.parametrize("status", ["pending", "completed", "failed", "cancelled"])
async def test_what_does_not_run_is_not_rescued(jobs, plain, status):
    """Ready and terminal jobs hold no lease, even if their row has an owner."""
    [job] = await jobs.running()
    ended = None if status == "pending" else "now"
    await jobs.sql(
        "UPDATE proving.plain_jobs SET status = %s, version = 3, completed_at = %s::timestamptz", status, ended
    )

    assert await rescue(jobs, plain) == 0
    assert (await jobs.row(job.id))["version"] == 3


async def test_two_rescuers_free_a_job_once(jobs, plain):
    """One attempt is spent, not two."""
    [job] = await jobs.running()

    first, second = await jobs.race(
        lambda conn: rescue_expired(conn, plain, led_for=LONG), lambda conn: rescue_expired(conn, plain, led_for=LONG)
    )

    assert (first, second) == (1, 0)
    assert (await jobs.row(job.id))["retry_count"] == 1


async def test_a_settle_under_way_is_not_rescued(jobs, plain):
    """The rescue skips the row that the worker has locked."""
    [job] = await jobs.running()

    settled, rescued = await jobs.race(
        lambda conn: settle(conn, plain.model, [jobs.outcome(job, Complete())]),
        lambda conn: rescue_expired(conn, plain, led_for=LONG),
    )

    assert (settled, rescued) == ({job.id}, 0)
    assert (await jobs.row(job.id))["status"] == "completed"


async def test_a_rescue_of_the_second_step_goes_back_to_the_second(jobs):
    """The first step is not repeated."""
    [job] = await jobs.running("proving.first")
    await jobs.settle(job, Complete(), "proving.first")
    await jobs.running("proving.second", 0)

    assert await rescue(jobs, jobs.registry["proving.first"]) == 0
    assert await rescue(jobs, jobs.registry["proving.second"]) == 1
    assert (await jobs.row(job.id, "proving.second"))["status"] == "halfway"


async def test_a_heartbeat_that_comes_in_time_keeps_the_lease(jobs, plain):
    """One row per process is the lease of all its jobs."""
    row = WorkerRow(id=jobs.owner, name="w", queues=("proving",), slots=1, lease_seconds=10)
    await jobs.worker(worker_id=jobs.owner, lease_seconds=10)
    await jobs.running()
    await silence(jobs, 11)

    async with jobs.database.kernel() as conn:
        await beat_heart(conn, row, running=1)

    assert await rescue(jobs, plain) == 0


async def ended(jobs, *, ago: timedelta, count: int = 1):
    """Return jobs that were completed ``ago``."""
    done = await jobs.running(count=count)
    for job in done:
        await jobs.settle(job, Complete())
        await jobs.unguarded("UPDATE proving.plain_jobs SET completed_at = now() - %s WHERE id = %s", ago, job.id)
    return done


async def prune_once(jobs, plain, **options) -> int:
    async with jobs.database.kernel() as conn:
        return await prune(conn, plain.model, **options)


async def test_jobs_past_their_tables_retention_are_deleted(jobs, plain):
    """This table keeps a day. Younger jobs stay, and so does the history of all jobs."""
    retention = plain.model.__lifecycle__.retention
    [old] = await ended(jobs, ago=retention + timedelta(minutes=1))
    [young] = await ended(jobs, ago=retention - timedelta(minutes=1))

    assert await prune_once(jobs, plain) == 1

    assert await jobs.count(id=old.id) == 0
    assert await jobs.count(id=young.id) == 1
    assert await jobs.actions(old.id) == ["enqueue", "claim", "complete"]


async def test_a_job_that_has_not_ended_is_kept_however_old(jobs, plain):
    """Age alone deletes no job."""
    await jobs.running()
    await jobs.ready()
    await jobs.unguarded(
        "UPDATE proving.plain_jobs SET created_at = now() - interval '1 year', updated_at = created_at"
    )

    assert await prune_once(jobs, plain) == 0


async def test_a_prune_takes_no_more_than_its_batch_and_the_oldest_first(jobs, plain):
    """A prune uses many short transactions, not a long one."""
    for days in (3, 5, 4):
        await ended(jobs, ago=timedelta(days=days))

    assert await prune_once(jobs, plain, batch=2) == 2

    [left] = await jobs.sql("SELECT completed_at < now() - interval '3 days' AS left FROM proving.plain_jobs")
    assert left["left"]


async def test_a_job_retried_meanwhile_survives_its_prune(jobs, plain):
    """The operator's retry has locked the row; the prune skips it and later finds it ready."""
    [job] = await jobs.running()
    await jobs.settle(job, Fail("bad"))
    await jobs.unguarded("UPDATE proving.plain_jobs SET completed_at = now() - interval '9 days'")

    retried, pruned = await jobs.race(
        lambda conn: retry(conn, plain.model, [job.id], reason="mended"), lambda conn: prune(conn, plain.model)
    )

    assert (retried, pruned) == ({job.id}, 0)
    assert await prune_once(jobs, plain) == 0
    assert await jobs.count(status="pending") == 1


async def test_two_prunes_delete_a_job_once(jobs, plain):
    """The second one skips rows that the first has locked."""
    await ended(jobs, ago=timedelta(days=2), count=3)

    first, second = await jobs.race(lambda conn: prune(conn, plain.model), lambda conn: prune(conn, plain.model))

    assert (first, second) == (3, 0)


async def test_a_cancel_that_races_a_rescue_wins_or_finds_the_job_ready(jobs, plain):
    """The second of both works on the result of the first."""
    [job] = await jobs.running()

    rescued, cancelled = await jobs.race(
        lambda conn: rescue_expired(conn, plain, led_for=LONG),
        lambda conn: cancel(conn, plain.model, [job.id], reason="no more"),
    )

    assert (rescued, cancelled) == (1, {job.id})
    assert await jobs.actions(job.id) == ["enqueue", "claim", "rescue", "cancel"]
