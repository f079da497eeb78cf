"""Any number of dispatchers, one leader: by a lock that ends with its connection."""

from tests.fakes.road import FakeRoad
from tests.kernel import PLAIN, dispatching, leader, passes
from tests.waiting import until


async def test_the_leader_asks_to_be_rung_only_when_idle(jobs, start_dispatcher):
    """Under load it looks by itself; ringing for each of many enqueues would slow them."""
    listening = "SELECT listening FROM runtime.dispatcher"
    await jobs.worker(slots=400)
    await jobs.ready(count=800)
    road = FakeRoad()
    road.passable.clear()

    await start_dispatcher(road)
    road.passable.set()
    await until(lambda: len(road.of(PLAIN)) == 800)

    await until(lambda: jobs.sql(f"{listening} WHERE listening"))


async def test_a_second_dispatcher_follows_and_publishes_nothing(jobs, start_dispatcher):
    """One leads; the lock says who."""
    await jobs.worker()
    leading = await start_dispatcher(name="one")
    await until(lambda: leader(jobs))
    following = await start_dispatcher(name="two")

    await jobs.ready(count=10)
    await until(lambda: len(leading.of(PLAIN)) == 10)
    await passes(leading)

    assert (await leader(jobs), following.batches, following.checks) == ("one", [], 0)


async def test_the_second_takes_over_when_the_leaders_connection_is_killed(jobs, start_dispatcher):
    """Within a second or so; the first comes back as a follower or a leader, and no job is published twice."""
    await jobs.worker()
    one = await start_dispatcher(name="one", redispatch_seconds=3_600)
    await until(lambda: leader(jobs))
    two = await start_dispatcher(name="two", redispatch_seconds=3_600)
    await jobs.ready(count=5)
    await until(lambda: len(one.of(PLAIN)) == 5)

    for _ in range(3):
        await jobs.sql(
            "SELECT pg_terminate_backend(pid, 2000) FROM pg_locks WHERE locktype = 'advisory' AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        await jobs.ready(count=5)
    await until(lambda: len(one.of(PLAIN) + two.of(PLAIN)) == 20)

    assert len({job.id for job in one.of(PLAIN) + two.of(PLAIN)}) == 20


async def test_the_second_takes_over_when_the_leader_stalls(jobs, start_dispatcher):
    """A leader that says nothing for three seconds loses its lock by Postgres's own hand, and its tickets with it."""
    await jobs.worker()
    stalled = FakeRoad()
    await start_dispatcher(stalled, name="one", redispatch_seconds=0.5)
    await until(lambda: leader(jobs))
    stalled.passable.clear()
    [job_id] = await jobs.ready()
    await until(lambda: stalled.attempts)

    other = await start_dispatcher(name="two", redispatch_seconds=0.5)
    await until(lambda: other.of(PLAIN), within=8)

    assert {job.id for job in other.of(PLAIN)} == {job_id}
    assert await leader(jobs) == "two"


async def test_a_stopped_leader_hands_over_at_once(jobs, database_url, registry, start_dispatcher):
    """It finishes its pass, closes its connection, and the next one leads."""
    await jobs.worker()
    road = FakeRoad()
    async with dispatching(database_url, registry, road, name="one"):
        await until(lambda: leader(jobs))
        second = await start_dispatcher(name="two")

    await jobs.ready()
    await until(lambda: second.of(PLAIN), within=3)
