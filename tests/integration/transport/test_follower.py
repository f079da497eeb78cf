"""The follower shows transitions that no worker made in Flower: each one once, however late it commits."""

import asyncio
import time
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from celery import Celery

from tests.support.kernel import Jobs
from workers.runtime.handler.outcomes import Fail
from workers.runtime.handler.registry import Registry
from workers.transport.events import EventStream
from workers.transport.follower import Follower


class Told:
    """A follower, and the events that it published since the last look."""

    def __init__(self, jobs: Jobs, registry: Registry, **bounds: Any) -> None:
        self.stream = EventStream(Celery(set_as_current=False), "dispatcher@here", registry)
        self.follower = Follower(jobs.database, registry, self.stream, **bounds)

    async def look(self) -> list[tuple[str, UUID]]:
        await self.follower.look()
        waiting, self.stream._waiting = self.stream._waiting, []
        return [(type_, UUID(fields["uuid"])) for type_, fields in waiting]


@pytest.fixture
def told(jobs: Jobs, registry: Registry) -> Told:
    return Told(jobs, registry)


CANCEL = "UPDATE proving.plain_jobs SET status = 'cancelled', version = version + 1, completed_at = now() WHERE id = %s"


async def test_a_waiting_job_that_is_cancelled_in_sql_is_told_once(jobs, told, psql):
    """No worker runs a job that is ready, due later or backing off, so only its table knows of the cancel."""
    [ready] = await jobs.ready()
    [later] = await jobs.ready(due_at="2100-01-01T00:00:00Z")
    for job in (ready, later):
        psql.execute(CANCEL, [job])

    assert sorted(await told.look()) == sorted([("task-revoked", ready), ("task-revoked", later)])
    assert await told.look() == []


async def test_what_workers_and_enqueues_do_is_told_by_those(jobs, told):
    """A follower does not read the transitions of workers and enqueues."""
    [job] = await jobs.running()
    await jobs.settle(job, Fail("x"))
    await jobs.ready(count=50)

    found = await told.look()

    # The connection of the tests is not a worker's, so the follower reads its transitions, except the enqueues.
    assert {id_ for _, id_ in found} == {job.id}


async def test_a_cancel_that_commits_late_is_told_when_it_does(jobs, told, psql, database_url):
    """Its transition has the time at which it was made. Newer transitions were published before it."""
    late, early, later = await jobs.ready(count=3)
    with psycopg.connect(database_url) as slow:
        slow.execute(CANCEL, [late])
        assert await told.look() == []
        psql.execute(CANCEL, [early])
        assert await told.look() == [("task-revoked", early)]
        for _ in range(3):
            assert await told.look() == []
        slow.commit()

    assert await told.look() == [("task-revoked", late)]
    assert await told.look() == []
    psql.execute(CANCEL, [later])
    assert await told.look() == [("task-revoked", later)]


async def test_old_transitions_are_not_remembered(jobs, told, psql):
    """After a bulk cancel, the next looks need no extra memory or time."""
    for job in await jobs.ready(count=200):
        psql.execute(CANCEL, [job])
    assert len(await told.look()) == 200
    for _ in range(2):
        await told.look()

    assert told.follower._published == {}
    assert len(told.follower._looks) <= 2


async def test_only_the_newest_state_of_a_job_is_told(jobs, told, psql):
    """If a job has several new transitions, only the newest one is published."""
    [job] = await jobs.running()
    await jobs.settle(job, Fail("x"))
    await told.look()
    psql.execute(
        "UPDATE proving.plain_jobs SET status = 'pending', version = version + 1, completed_at = NULL, "
        "retry_count = retry_count + 1 WHERE id = %s",
        [job.id],
    )
    psql.execute(CANCEL, [job.id])

    assert await told.look() == [("task-revoked", job.id)]


async def test_a_rescue_is_told_as_a_retry_and_the_last_one_as_a_failure(jobs, told, psql):
    """Its worker is gone and publishes nothing. A failed job that a person sends back is published as well."""
    [lost] = await jobs.running()
    psql.execute(
        "UPDATE proving.plain_jobs SET status = 'failed', version = version + 1, completed_at = now(), "
        "dispatched_at = NULL, change_action = 'rescue', change_reason = 'worker fell silent' WHERE id = %s",
        [lost.id],
    )
    assert ("task-failed", lost.id) in await told.look()
    psql.execute(
        "UPDATE proving.plain_jobs SET status = 'pending', version = version + 1, completed_at = NULL, "
        "retry_count = retry_count + 1 WHERE id = %s",
        [lost.id],
    )

    assert await told.look() == [("task-retried", lost.id)]


async def test_a_look_reads_the_index_of_what_others_moved(jobs, psql):
    """The number of transitions that workers make does not slow a look."""
    question = (
        "EXPLAIN SELECT * FROM runtime.transitions AS t WHERE t.old_state IS NOT NULL "
        "AND coalesce(t.changed_by, '') NOT LIKE 'worker:%' AND t.created_at >= now() - interval '1 minute'"
    )
    async with jobs.database.kernel() as conn:
        plan = [row[0] for row in await (await conn.execute(question)).fetchall()]
    indexes = psql.execute(
        "SELECT c.relname FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid "
        "WHERE inhparent = 'runtime.ix_transitions_moved_by_others'::regclass"
    ).fetchall()

    scans = [line for line in plan if "Scan" in line]
    assert scans
    assert all(any(row["relname"] in line for row in indexes) for line in scans), plan


@pytest.mark.parametrize(
    "bounds",
    [
        {"max_lookback": timedelta(seconds=0.2)},
        {"max_lookback": timedelta(hours=1), "busy_lookback": timedelta(seconds=0.2), "busy_transitions": 10},
    ],
)
async def test_a_transaction_that_stays_open_holds_the_looks_back_within_bounds(
    jobs, registry, psql, database_url, bounds
):
    """The bound is a time, and a shorter one if many transitions were published, because each look reads them again."""
    told = Told(jobs, registry, **bounds)
    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT pg_current_xact_id()")
        ids = await jobs.ready(count=30)
        for job in ids:
            psql.execute(CANCEL, [job])
        first = await told.look()
        again = []
        give_up = time.monotonic() + 10
        while told.follower._published:
            assert time.monotonic() < give_up
            await asyncio.sleep(0.05)
            again += await told.look()

    assert {id_ for _, id_ in first} == set(ids)
    assert again == []
    assert len(told.follower._looks) < 20


async def test_the_longer_bound_holds_for_few_transitions(jobs, registry, psql, database_url):
    """A cancel in psql that commits after a while is published."""
    told = Told(jobs, registry, max_lookback=timedelta(hours=1), busy_lookback=timedelta(), busy_transitions=10)
    [job] = await jobs.ready()
    with psycopg.connect(database_url) as holder:
        holder.execute(CANCEL, [job])
        for _ in range(5):
            assert await told.look() == []
            await asyncio.sleep(0.05)

    assert await told.look() == [("task-revoked", job)]


@pytest.mark.parametrize("time", ["infinity", "-infinity", "20000-01-01", "0044-03-15 BC"])
async def test_a_transition_of_a_time_that_no_clock_has_stops_nobody(jobs, told, psql, time):
    """An impossible time in the history does not stop the follower from publishing later transitions."""
    psql.execute(
        "INSERT INTO runtime.transitions (job_id, version_to, created_at, stage, old_state, new_state, changed_by)"
        " VALUES (gen_random_uuid(), 2, %s, 'proving.plain', 'pending', 'cancelled', 'psql')",
        [time],
    )
    await told.look()
    [job_id] = await jobs.ready()
    psql.execute("SELECT runtime.cancel(%s)", [job_id])

    assert job_id in [told_id for _, told_id in await told.look()]
