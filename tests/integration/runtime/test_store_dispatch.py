"""The leader's statements: pick and give tickets, take tickets back, wake; inside one window and every limit."""

import asyncio
from collections import Counter
from datetime import timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.kernel import PLAIN, WIDE
from tests.support.proving.models import LIMIT
from workers.runtime.enqueue import enqueue_many
from workers.runtime.handler.outcomes import Complete, Snooze
from workers.runtime.store.dispatch import KEYS_PER_PASS, Window, pick, unmark, unmark_exactly, wake_due

KEYED = "proving.keyed"


async def keys_of(jobs, picked):
    """Return how many jobs of each key were picked."""
    rows = await jobs.sql("SELECT key FROM proving.keyed_jobs WHERE id = ANY (%s)", [job.id for job in picked])
    return Counter(row["key"] for row in rows)


async def test_picked_jobs_are_marked_and_carry_their_version(jobs, plain):
    """The ticket is ``dispatched_at``; setting it is no transition."""
    [job_id] = await jobs.ready()

    async with jobs.database.kernel() as conn:
        [picked] = (await pick(conn, plain, WIDE)).jobs

    row = await jobs.row(job_id)
    assert (picked.id, picked.version, picked.created_at) == (job_id, 1, row["created_at"])
    assert row["dispatched_at"] is not None
    assert await jobs.actions(job_id) == ["enqueue"]


async def test_priority_goes_before_age(jobs, plain):
    """Priority 1 comes before 5 and 5 before 10; within a priority, the oldest job comes first."""
    later = await jobs.ready(priority=5)
    first = await jobs.ready(priority=1)
    last = await jobs.ready(priority=10)
    latest = await jobs.ready(priority=5)

    async with jobs.database.kernel() as conn:
        picked = (await pick(conn, plain, WIDE)).jobs

    assert [job.id for job in picked] == first + later + latest + last


async def test_a_marked_job_is_not_picked_again(jobs, plain):
    """Its message is already published."""
    await jobs.dispatched(count=2)

    async with jobs.database.kernel() as conn:
        assert (await pick(conn, plain, WIDE)).jobs == []


async def test_a_job_of_later_is_not_picked(jobs, plain):
    """A job does not run before its due time."""
    await jobs.ready(due_at="2999-01-01T00:00:00Z")

    async with jobs.database.kernel() as conn:
        assert (await pick(conn, plain, WIDE)).jobs == []


async def test_out_is_at_most_twice_the_free_slots(jobs, plain):
    """A running job takes a slot from the window; a dispatched job takes a place in it."""
    await jobs.ready(count=40)
    window = Window(slots=10, at_most=100)

    async with jobs.database.kernel() as conn:
        first = (await pick(conn, plain, window)).jobs
        again = (await pick(conn, plain, window)).jobs
        await jobs.claim([(job.id, job.version) for job in first[:6]])
        after = (await pick(conn, plain, window)).jobs

    assert (len(first), len(again)) == (20, 0)
    assert len(after) == 0  # eight may wait for the four free slots; fourteen do already
    assert await jobs.count(status="processing") == 6


async def test_a_full_house_keeps_a_small_floor_waiting(jobs, plain):
    """When a slot becomes free, a job is already published for it."""
    await jobs.running(count=10)
    await jobs.ready(count=40)

    async with jobs.database.kernel() as conn:
        assert len((await pick(conn, plain, Window(slots=10, at_most=100))).jobs) == 1
        assert len((await pick(conn, plain, Window(slots=100, at_most=100))).jobs) > 10


async def test_no_pass_takes_more_than_it_may(jobs, plain):
    """A tick is short, however long the backlog is."""
    await jobs.ready(count=30)

    async with jobs.database.kernel() as conn:
        assert len((await pick(conn, plain, Window(slots=1_000, at_most=7))).jobs) == 7


async def test_two_leaders_racing_mark_each_job_once(jobs, plain):
    """The lease prevents two leaders; if there were two, the second would skip rows that the first has locked."""
    ids = await jobs.ready(count=10)

    first, second = await jobs.race(
        lambda conn: pick(conn, plain, Window(slots=10, at_most=5)),
        lambda conn: pick(conn, plain, Window(slots=10, at_most=5)),
    )

    assert len(first.jobs) == 5
    assert not {job.id for job in first.jobs} & {job.id for job in second.jobs}
    assert {job.id for job in first.jobs + second.jobs} <= set(ids)


async def test_a_job_that_somebody_is_changing_is_left_for_the_next_pass(jobs, plain):
    """The leader does not wait for a row lock."""
    held, free = await jobs.ready(count=2)

    async with jobs.database.kernel() as other, other.transaction(), jobs.database.kernel() as conn:
        await other.execute("SELECT 1 FROM proving.plain_jobs WHERE id = %s FOR UPDATE", [held])
        async with asyncio.timeout(2):
            assert [job.id for job in (await pick(conn, plain, WIDE)).jobs] == [free]


async def test_every_key_has_its_turn_before_any_has_its_second(jobs):
    """A key with a hundred jobs does not delay a key with a single job."""
    await jobs.ready(KEYED, 100, key="greedy")
    await jobs.ready(KEYED, 1, key="modest", priority=10)

    async with jobs.database.kernel() as conn:
        picked = (await pick(conn, jobs.registry[KEYED], Window(slots=1, at_most=2))).jobs

    assert await keys_of(jobs, picked) == {"greedy": 1, "modest": 1}


async def test_within_a_turn_priority_then_age_decide(jobs):
    """Fairness comes first, then the order of a stage without a limit."""
    await jobs.ready(KEYED, 1, key="a", priority=9)
    await jobs.ready(KEYED, 1, key="b", priority=1)
    await jobs.ready(KEYED, 1, key="b", priority=2)
    await jobs.ready(KEYED, 1, key="c", priority=5)

    async with jobs.database.kernel() as conn:
        picked = (await pick(conn, jobs.registry[KEYED], WIDE)).jobs

    priorities = [(await jobs.row(job.id, KEYED))["priority"] for job in picked]
    assert priorities == [1, 5, 9, 2]


async def test_a_key_never_has_more_in_flight_than_its_limit(jobs):
    """One key has a thousand jobs. Dispatched and running jobs count for its limit; other keys are not delayed."""
    await jobs.ready(KEYED, 1_000, key="many")
    await jobs.ready(KEYED, 2, key="few")
    stage = jobs.registry[KEYED]

    async with jobs.database.kernel() as conn:
        first = (await pick(conn, stage, WIDE)).jobs
        assert await keys_of(jobs, first) == {"many": LIMIT, "few": 2}
        claimed = await jobs.claim([(job.id, job.version) for job in first], KEYED)
        assert (await pick(conn, stage, WIDE)).jobs == []

        done = [job for job in claimed if job.key == "many"][:2]
        for job in done:
            await jobs.settle(job, Complete(), KEYED)
        assert await keys_of(jobs, (await pick(conn, stage, WIDE)).jobs) == {"many": 2}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    backlog=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 3)), min_size=1, max_size=30),
    windows=st.lists(st.integers(0, 12), min_size=1, max_size=3),
)
async def test_every_pass_takes_what_turns_priorities_ages_and_limits_say(jobs, backlog, windows):
    """A pass picks the same jobs as a sort of the whole backlog, for any backlog and window."""
    await jobs.sql("DELETE FROM proving.keyed_jobs")
    async with jobs.database.session() as session:
        await enqueue_many(session, KEYED, [{"key": key, "priority": priority} for key, priority in backlog])
    order = "SELECT id, key FROM proving.keyed_jobs ORDER BY priority, created_at, id"
    waiting = [(row["id"], row["key"]) for row in await jobs.sql(order)]
    out: Counter[str] = Counter()

    for count in windows:
        turns: Counter[str] = Counter()
        allowed = []
        for at, (id_, key) in enumerate(waiting):
            turns[key] += 1
            if out[key] + turns[key] <= LIMIT:
                allowed.append((turns[key], at, id_, key))
        expected = sorted(allowed)[:count]
        async with jobs.database.kernel() as conn:
            window = Window(slots=0, at_most=count, floor=len(backlog) * 2)
            picked = (await pick(conn, jobs.registry[KEYED], window)).jobs

        assert [job.id for job in picked] == [id_ for _, _, id_, _ in expected]
        out.update(key for *_, key in expected)
        waiting = [one for one in waiting if one[0] not in {job.id for job in picked}]


async def test_a_pass_without_room_keeps_its_place_among_the_keys(jobs):
    """It looks at no key, and the next pass starts where the last one ended."""
    await jobs.ready(KEYED, 1, key="k")
    stage = jobs.registry[KEYED]

    async with jobs.database.kernel() as conn:
        none = await pick(conn, stage, Window(slots=0, at_most=0), cursor="j")
        assert (none.jobs, none.cursor) == ([], "j")
        assert len((await pick(conn, stage, WIDE, cursor="j")).jobs) == 1


async def test_a_pick_waits_for_no_disk_and_whoever_comes_after_it_does(jobs, plain):
    """If Postgres loses a ticket in a crash, its message claims nothing and the job is picked again."""
    await jobs.ready()
    show = "SHOW synchronous_commit"

    async with jobs.database.kernel() as conn:
        before = await (await conn.execute(show)).fetchone()
        async with conn.transaction():
            await pick(conn, plain, WIDE)
            within = await (await conn.execute(show)).fetchone()
        after = await (await conn.execute(show)).fetchone()

    assert (within, after) == (("off",), before)
    assert before != within


async def test_a_snoozed_job_frees_its_keys_place(jobs):
    """While it waits, the next job of its key is dispatched."""
    await jobs.ready(KEYED, LIMIT + 1, key="k")
    claimed = await jobs.running(KEYED, 0)

    await jobs.settle(claimed[0], Snooze(timedelta(hours=1), "quota"), KEYED)

    assert len(await jobs.dispatched(KEYED, 0)) == 1


async def test_the_cursor_carries_on_behind_the_keys_of_the_last_pass(jobs):
    """If there are more keys than one pass looks at, the others have their turn in the next pass."""
    keys = KEYS_PER_PASS + 40
    async with jobs.database.session() as session:
        await enqueue_many(session, KEYED, [{"key": f"key {n:04}"} for n in range(keys)])
    stage = jobs.registry[KEYED]

    async with jobs.database.kernel() as conn:
        first = await pick(conn, stage, WIDE)
        second = await pick(conn, stage, WIDE, cursor=first.cursor)

    assert (len(first.jobs), first.cursor) == (KEYS_PER_PASS, f"key {KEYS_PER_PASS - 1:04}")
    assert (len(second.jobs), second.cursor) == (40, None)
    assert len({job.id for job in first.jobs + second.jobs}) == keys


async def test_where_a_pass_finds_few_keys_with_room_it_takes_more_than_the_first_of_each(jobs):
    """This holds even if more keys follow: slots must not stay empty until the next pass."""
    full, free = [f"a{n:04}" for n in range(KEYS_PER_PASS - 2)], ["b1", "b2", "c"]
    stage = jobs.registry[KEYED]
    async with jobs.database.session() as session:
        await enqueue_many(session, KEYED, [{"key": key} for key in full + free for _ in range(LIMIT + 1)])
    await jobs.sql(
        "UPDATE proving.keyed_jobs SET dispatched_at = now() WHERE id IN (SELECT id FROM (SELECT id, key, row_number()"
        " OVER (PARTITION BY key ORDER BY id) AS turn FROM proving.keyed_jobs) AS turns"
        f" WHERE starts_with(key, 'a') AND turn <= {LIMIT})"
    )

    async with jobs.database.kernel() as conn:
        window = Window(slots=0, at_most=KEYS_PER_PASS, floor=len(full) * LIMIT + KEYS_PER_PASS)
        done = await pick(conn, stage, window)

    assert await keys_of(jobs, done.jobs) == {"b1": LIMIT, "b2": LIMIT}
    assert done.cursor == "b2"


async def test_old_tickets_are_taken_back_and_young_ones_kept(jobs, plain):
    """A job that was dispatched long ago and not claimed is picked again; its old message claims nothing."""
    [old] = await jobs.dispatched()
    await jobs.sql("UPDATE proving.plain_jobs SET dispatched_at = now() - interval '1 minute'")
    [young] = await jobs.dispatched()

    async with jobs.database.kernel() as conn:
        assert await unmark(conn, plain, older_than=timedelta(seconds=30)) == 1

    assert await jobs.claim([old]) == []
    assert len(await jobs.claim([young])) == 1


async def test_a_claimed_job_keeps_its_mark_however_old(jobs, plain):
    """It counts for the limits until it is settled."""
    [job] = await jobs.running()

    async with jobs.database.kernel() as conn:
        assert await unmark(conn, plain, older_than=timedelta()) == 0

    assert (await jobs.row(job.id))["dispatched_at"] is not None


async def test_only_this_stages_tickets_are_taken_back(jobs):
    """Two stages share a table; a pause of one does not affect the other's messages."""
    await jobs.dispatched("proving.first")

    async with jobs.database.kernel() as conn:
        assert await unmark(conn, jobs.registry["proving.second"], older_than=timedelta()) == 0
        assert await unmark(conn, jobs.registry["proving.first"], older_than=timedelta()) == 1


async def test_a_ticket_handed_back_leaves_newer_ones_alone(jobs, plain):
    """Tickets are taken back by id and version, so a late call cannot take back a newer ticket."""
    one, other = await jobs.dispatched(count=2)
    await jobs.claim([other])

    async with jobs.database.kernel() as conn:
        await unmark_exactly(conn, plain.model, [one, other])

    assert (await jobs.row(one[0]))["dispatched_at"] is None
    assert (await jobs.row(other[0]))["dispatched_at"] is not None


async def test_a_job_wakes_when_its_time_has_come_and_not_before(jobs, plain):
    """Due jobs become ready; this is no transition."""
    [job] = await jobs.running()
    await jobs.settle(job, Snooze(timedelta(hours=1), "quota"))
    async with jobs.database.kernel() as conn:
        assert await wake_due(conn, plain.model) == 0

        await jobs.sql("UPDATE proving.plain_jobs SET due_at = now()")
        assert await wake_due(conn, plain.model) == 1
        assert await wake_due(conn, plain.model) == 0

    assert len(await jobs.dispatched(PLAIN, 0)) == 1
    assert await jobs.actions(job.id) == ["enqueue", "claim", "snooze"]


async def test_two_wakers_share_the_sleepers(jobs, plain):
    """The second one skips rows that the first has locked."""
    await jobs.ready(due_at="2000-01-01T00:00:00Z", count=3)

    first, second = await jobs.race(lambda conn: wake_due(conn, plain.model), lambda conn: wake_due(conn, plain.model))

    assert (first, second) == (3, 0)
