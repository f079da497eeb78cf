"""The dispatcher with real rows and a fake broker: bounded, fair, pausable, recovering, one leader at a time."""

import asyncio
from collections import Counter
from datetime import timedelta

import psycopg
from structlog.testing import capture_logs

from gristmill_testing.waiting import until
from tests.support.fakes.road import FakeRoad
from tests.support.kernel import PLAIN, Jobs, leader, passes
from tests.support.proving.models import LIMIT
from workers.runtime.enqueue import enqueue_many
from workers.runtime.handler.outcomes import Snooze
from workers.runtime.store.dispatch import KEYS_PER_PASS
from workers.runtime.store.intervene import pause, resume

KEYED = "proving.keyed"


async def test_a_due_job_is_published_once_with_its_ticket(jobs, start_dispatcher):
    """The ticket has the id and version and is set in the row; it is published again only for a reason."""
    await jobs.worker()
    [job_id] = await jobs.ready()

    road = await start_dispatcher(redispatch_seconds=60)
    await until(lambda: road.of(PLAIN))
    await passes(road)

    assert [(job.id, job.version) for job in road.of(PLAIN)] == [(job_id, 1)]
    assert (await jobs.row(job_id))["dispatched_at"] is not None


async def test_new_work_is_published_without_waiting_for_the_poll(jobs, start_dispatcher):
    """A NOTIFY wakes the dispatcher; the next poll is far away."""
    await jobs.worker()
    road = await start_dispatcher(poll_seconds=2.0)
    await until(lambda: leader(jobs))
    await passes(road, 1)

    await jobs.ready()

    await until(lambda: road.of(PLAIN), within=1.5)


async def test_without_a_worker_nothing_is_published(jobs, start_dispatcher):
    """The backlog stays in Postgres, where it can be counted; a new worker is noticed."""
    await jobs.ready()
    road = await start_dispatcher()
    await passes(road)
    assert road.batches == []

    await jobs.worker()

    await until(lambda: road.of(PLAIN))


async def test_a_bounded_window_of_jobs_is_published(jobs, start_dispatcher):
    """At most twice the free slots are published, however long the backlog is and however many passes run."""
    await jobs.worker(slots=10)
    await jobs.ready(count=500)

    road = await start_dispatcher(redispatch_seconds=60)
    await until(lambda: len(road.of(PLAIN)) >= 20)
    await passes(road)

    assert len(road.of(PLAIN)) <= 40  # for a moment, the floor depends on the rate of the first pass
    assert await jobs.count(status="pending") == 500
    assert len({job.id for job in road.of(PLAIN)}) == len(road.of(PLAIN))


async def test_jobs_are_published_by_priority_then_age(jobs, start_dispatcher):
    """The order in which they were enqueued does not matter."""
    await jobs.worker()
    old, new = await jobs.ready(priority=5), await jobs.ready(priority=5)
    urgent, idle = await jobs.ready(priority=1), await jobs.ready(priority=10)

    road = await start_dispatcher()
    await until(lambda: len(road.of(PLAIN)) == 4)

    assert [job.id for job in road.of(PLAIN)] == urgent + old + new + idle


async def test_a_batch_is_full_under_load_and_never_all_of_it_for_one_of_many(jobs, start_dispatcher):
    """An idle leader sends one message per job; under load, workers share the jobs in bounded batches."""
    await jobs.worker()
    await jobs.worker()
    await jobs.ready(count=100)

    road = await start_dispatcher(batch_size=16)
    await until(lambda: len(road.of(PLAIN)) == 100)
    assert Counter(len(batch) for _, batch in road.batches).most_common(1)[0][0] == 16
    assert max(len(batch) for _, batch in road.batches) == 16

    await jobs.ready(count=10)
    await until(lambda: len(road.of(PLAIN)) == 110)
    assert len(road.batches[-1][1]) == 5


async def test_every_key_gets_its_turn(jobs, start_dispatcher):
    """A key with a thousand jobs does not delay a key with one job and does not exceed its limit."""
    await jobs.worker()
    await jobs.ready(KEYED, 1_000, key="greedy")
    modest = [(await jobs.ready(KEYED, 1, key=f"modest {n}"))[0] for n in range(5)]

    road = await start_dispatcher(redispatch_seconds=60)
    await until(lambda: len(road.of(KEYED)) == LIMIT + 5)
    await passes(road)

    published = [job.id for job in road.of(KEYED)]
    assert len(published) == LIMIT + 5
    assert set(modest) <= set(published)


async def test_more_keys_than_one_pass_looks_at_all_get_their_turn(jobs, start_dispatcher):
    """The leader continues after the last key of a pass and starts again after the last of all."""
    keys = KEYS_PER_PASS + 40
    await jobs.worker(slots=2 * keys)
    async with jobs.database.session() as session:
        await enqueue_many(session, KEYED, [{"key": f"key {n:04}"} for n in range(keys)])

    road = await start_dispatcher(redispatch_seconds=60)
    await until(lambda: len(road.of(KEYED)) == keys)
    await jobs.ready(KEYED, key="key 0000")
    await until(lambda: len(road.of(KEYED)) == keys + 1)

    assert len({job.id for job in road.of(KEYED)}) == keys + 1


async def test_no_key_ever_runs_more_than_its_limit(jobs, start_dispatcher, start_worker):
    """Several workers run many jobs of one key and some of others: all end, at most three of a key at once."""
    workers = [await start_worker(slots=20) for _ in range(2)]
    await jobs.ready(KEYED, 120, key="many")
    for n in range(4):
        await jobs.ready(KEYED, 10, key=f"few {n}")
    turn = 0

    async def deliver(stage: str, tickets) -> None:
        nonlocal turn
        turn += 1
        await workers[turn % 2].accept(tickets, stage)
        await workers[(turn + 1) % 2].accept(tickets, stage)  # every message comes twice

    await start_dispatcher(FakeRoad(deliver))
    await until(lambda: done(jobs, KEYED, 160), within=40)

    [most] = await jobs.sql(
        """SELECT max(running) AS running FROM (
             SELECT sum(CASE WHEN t.new_state = 'processing' THEN 1 WHEN t.old_state = 'processing' THEN -1 ELSE 0 END)
                    OVER (PARTITION BY j.key ORDER BY t.created_at, t.version_to DESC) AS running
               FROM runtime.transitions AS t JOIN proving.keyed_jobs AS j ON j.id = t.job_id) AS moments"""
    )
    assert most["running"] == LIMIT
    [counts] = await jobs.sql("SELECT count(*) AS n FROM runtime.transitions WHERE change_action = 'complete'")
    assert counts["n"] == 160


async def done(jobs: Jobs, stage: str, count: int) -> bool:
    return await jobs.count(stage, status="completed") == count


async def test_a_pause_takes_back_what_is_out_and_resume_gives_it_again(jobs, start_dispatcher):
    """Published messages of the stage claim nothing; other stages are not affected."""
    await jobs.worker()
    await jobs.ready(count=3)
    road = await start_dispatcher(redispatch_seconds=60)
    await until(lambda: len(road.of(PLAIN)) == 3)
    ticket = (road.of(PLAIN)[0].id, road.of(PLAIN)[0].version)

    async with jobs.database.kernel() as conn:
        await pause(conn, PLAIN, by="alice")
        await until(lambda: no_ticket_is_out(jobs))
        assert await jobs.claim([ticket]) == []
        await jobs.ready(KEYED, key="k")
        await until(lambda: road.of(KEYED))
        assert len(road.of(PLAIN)) == 3

        await resume(conn, PLAIN)
    await until(lambda: len(road.of(PLAIN)) == 6)

    assert len(await jobs.claim([ticket])) == 1


async def no_ticket_is_out(jobs: Jobs) -> bool:
    return not await jobs.sql("SELECT 1 FROM proving.plain_jobs WHERE dispatched_at IS NOT NULL")


async def test_a_resumed_stage_is_looked_at_though_another_notifies_all_the_time(jobs, start_dispatcher):
    """A NOTIFY says where to look first; the poll still looks at every table."""
    await jobs.worker()
    async with jobs.database.kernel() as conn:
        await pause(conn, KEYED, by="alice")
        await jobs.ready(KEYED, key="k")
        road = await start_dispatcher()
        await until(lambda: leader(jobs))

        async def notify() -> None:
            while True:
                await jobs.ready()
                await asyncio.sleep(0.02)

        notifying = asyncio.create_task(notify())
        await until(lambda: len(road.of(PLAIN)) > 10)
        await resume(conn, KEYED)
        await until(lambda: road.of(KEYED), within=3)
        notifying.cancel()
        await asyncio.gather(notifying, return_exceptions=True)


async def test_a_job_is_woken_when_its_time_has_come(jobs, start_dispatcher):
    """It was snoozed for a moment and is published again with its new version."""
    await jobs.worker(worker_id=jobs.owner)
    [job] = await jobs.running()
    await jobs.settle(job, Snooze(timedelta(seconds=0.3), "quota"))

    road = await start_dispatcher()
    await until(lambda: road.of(PLAIN))

    [published] = road.of(PLAIN)
    row = await jobs.row(job.id)
    assert (published.id, published.version) == (job.id, 3)
    snoozed = (await jobs.history(job.id))[-1].created_at
    assert row["dispatched_at"] - snoozed >= timedelta(seconds=0.3)


async def test_what_nobody_claims_is_published_again(jobs, start_dispatcher):
    """A worker died between the message and the claim: the same ticket is published again."""
    await jobs.worker()
    [job_id] = await jobs.ready()

    road = await start_dispatcher(redispatch_seconds=0.3)
    await until(lambda: len(road.of(PLAIN)) >= 2)

    assert {(job.id, job.version) for job in road.of(PLAIN)} == {(job_id, 1)}


async def test_what_still_lies_in_its_queue_is_given_more_time(jobs, start_dispatcher):
    """The workers are busy, not dead."""
    await jobs.worker()
    await jobs.ready()
    road = FakeRoad()
    road.empty = False

    await start_dispatcher(road, redispatch_seconds=0.3)
    await until(lambda: road.of(PLAIN))
    await passes(road, 2)

    assert len(road.of(PLAIN)) == 1


async def test_a_broker_that_lost_everything_gets_all_jobs_again_at_once(jobs, start_dispatcher):
    """The leader does not wait for lost messages, and no job is claimed twice."""
    await jobs.worker()
    ids = await jobs.ready(count=20)
    road = await start_dispatcher(redispatch_seconds=3_600)
    await until(lambda: len(road.of(PLAIN)) == 20)

    road.lost = True
    await until(lambda: len(road.of(PLAIN)) == 40, within=2)

    assert Counter(job.id for job in road.of(PLAIN)) == dict.fromkeys(ids, 2)


async def test_jobs_are_published_again_when_the_broker_is_back(jobs, start_dispatcher):
    """One failure shows that the broker is away; when it is back, every job is published once."""
    await jobs.worker()
    road = FakeRoad()
    road.closed = True
    await jobs.ready(count=30)

    with capture_logs() as logs:
        await start_dispatcher(road, redispatch_seconds=3_600, batch_size=4)
        await until(lambda: road.attempts)
        await until(lambda: no_ticket_is_out(jobs))
        await passes(road)
    assert road.attempts == 1
    assert len([line for line in logs if line["event"] in {"publish_failed", "road_closed"}]) <= 2

    road.closed = False
    await until(lambda: len(road.of(PLAIN)) == 30)
    await passes(road)
    assert len(road.of(PLAIN)) == 30


async def test_the_jobs_of_a_silent_worker_are_published_again(jobs, start_dispatcher):
    """The leader rescues them after the lease, counted from the start of its lead."""
    await jobs.worker()
    silent = await jobs.worker(lease_seconds=1.0)
    [ticket] = await jobs.dispatched()
    [job] = await jobs.claim([ticket], owner=silent)

    road = await start_dispatcher()
    await until(lambda: road.of(PLAIN))

    assert [(one.id, one.version) for one in road.of(PLAIN)] == [(job.id, 3)]
    assert (await jobs.history(job.id))[-1].changed_by == "dispatcher:one"


async def test_a_table_that_someone_holds_keeps_no_other_stage_waiting(jobs, start_dispatcher, database_url):
    """The leader skips the locked table for a while, keeps leading, and dispatches it when it is free."""
    await jobs.worker()
    road = await start_dispatcher()
    await until(lambda: leader(jobs))
    [held] = await jobs.ready()
    await until(lambda: road.of(PLAIN))
    with psycopg.connect(database_url) as holder, capture_logs() as said:
        holder.execute("LOCK TABLE proving.plain_jobs IN ACCESS EXCLUSIVE MODE")
        await until(lambda: any(one["event"] == "table_is_locked" for one in said))
        [free] = await jobs.ready(KEYED, key="k")
        await until(lambda: [job.id for job in road.of(KEYED)] == [free])
    [after] = await jobs.ready()

    await until(lambda: [job.id for job in road.of(PLAIN)] == [held, after])
    assert not any("lost" in one["event"] or "failed" in one["event"] for one in said)
