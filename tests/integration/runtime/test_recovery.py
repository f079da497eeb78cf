"""Postgres goes away and comes back: no process is restarted, nothing is lost, nothing is done twice.

The module has its own servers, which tests stop and kill. Start and stop block the loop, as on a busy machine.
"""

import asyncio
import uuid

import pytest

from gristmill_testing.waiting import until
from local.embedded import throwaway_servers
from tests.conftest import create_database, drop_database, make_template
from tests.support.fakes.road import FakeRoad
from tests.support.kernel import PLAIN, Jobs, WorkerProcess, dispatching, started_worker
from workers.runtime.database import Database

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def own_servers():
    """A PostgreSQL for this module only."""
    with throwaway_servers(valkey=False) as servers:
        make_template(servers.urls.database_url)
        yield servers


@pytest.fixture
def own_url(own_servers):
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield create_database(own_servers.urls.database_url, name, template="gristmill_template")
    drop_database(own_servers.urls.database_url, name)


@pytest.fixture
async def jobs(own_url, registry):
    database = Database(own_url, changed_by="test")
    yield Jobs(database, registry)
    await database.close()


@pytest.fixture
async def worker(own_url, registry):
    async with started_worker(own_url, registry) as worker:
        yield worker


async def answered(jobs: Jobs) -> bool:
    """Tell whether Postgres answers again; this also finds broken pooled connections."""
    try:
        await jobs.sql("SELECT 1")
    except Exception:  # noqa: BLE001 - away, in whatever way
        return False
    return True


def end(servers, how: str) -> None:
    """Stop PostgreSQL cleanly, or kill it."""
    if how == "stop":
        servers.stop_postgres()
    else:
        servers.kill_postgres()


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_what_runs_while_postgres_is_away_is_settled_when_it_is_back(own_servers, jobs, worker, how):
    """Handlers finish and their outcomes wait; each is recorded once, with its writes."""
    await jobs.ready(count=20, act="write", seconds=0.3)
    await jobs.ready(count=20, act="complete", seconds=0.3)
    tickets = await jobs.dispatched(count=0)
    await worker.accept(tickets)

    end(own_servers, how)
    try:
        await asyncio.sleep(0.8)  # Postgres is away for so long that every handler ends meanwhile
        assert len(worker.kernel.runs) == 40
    finally:
        own_servers.start_postgres()
    await worker.idle(within=20)

    await until(lambda: answered(jobs))
    assert await jobs.count(status="completed") == 40
    assert await jobs.count(act="write", effects=1) == 20
    for job_id, _ in tickets:
        assert await jobs.actions(job_id) == ["enqueue", "claim", "complete"]


async def test_a_batch_that_arrives_while_postgres_is_away_is_claimed_when_it_is_back(own_servers, jobs, worker):
    """The carrier task waits; the batch is not published again."""
    tickets = await jobs.dispatched(count=5)

    own_servers.stop_postgres()
    accepting = asyncio.create_task(worker.accept(tickets))
    await asyncio.sleep(0.1)
    own_servers.start_postgres()
    await accepting
    await worker.idle(within=20)

    await until(lambda: answered(jobs))
    if await jobs.count(status="pending"):  # the carrier task gave up first: the leader takes the tickets back
        await worker.run(tickets)
    assert await jobs.count(status="completed") == 5


async def test_a_worker_that_starts_without_postgres_waits_for_it(own_servers, own_url, registry, jobs):
    """It does not crash in a loop; it starts with its first heartbeat."""
    own_servers.stop_postgres()
    worker = WorkerProcess(own_url, registry, slots=5)
    starting = asyncio.create_task(worker.kernel.start())
    await asyncio.sleep(0.3)
    assert not starting.done()

    own_servers.start_postgres()
    await asyncio.wait_for(starting, 20)

    await until(lambda: answered(jobs))
    await worker.run(await jobs.dispatched())
    assert await jobs.count(status="completed") == 1
    await worker.stop()


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_dispatchers_outlive_a_restart_and_one_leads_again(own_servers, own_url, registry, jobs, how):
    """New jobs are dispatched without a restart, and jobs that were published before are not published twice.

    The exception: Postgres was killed before the last tickets were on disk. Their jobs are picked again and run once.
    """
    await jobs.worker()
    roads = [FakeRoad(), FakeRoad()]
    async with (
        dispatching(own_url, registry, roads[0], name="one", redispatch_seconds=3_600),
        dispatching(own_url, registry, roads[1], name="two", redispatch_seconds=3_600),
    ):
        await jobs.ready(count=5)
        await until(lambda: sum(len(road.of(PLAIN)) for road in roads) == 5)

        end(own_servers, how)
        await asyncio.sleep(0.2)
        own_servers.start_postgres()
        await until(lambda: answered(jobs))
        await jobs.ready(count=5)
        await until(lambda: len({job.id for road in roads for job in road.of(PLAIN)}) == 10, within=20)

    out = sum(len(road.of(PLAIN)) for road in roads)
    assert out == 10 if how == "stop" else 10 <= out <= 15


async def test_an_absence_longer_than_the_lease_takes_no_job_from_a_living_worker(own_servers, own_url, registry, jobs):
    """No worker could write a heartbeat; the next leader gives each worker its full lease."""
    async with started_worker(own_url, registry, lease_seconds=1.0) as worker:
        road = FakeRoad()
        async with dispatching(own_url, registry, road, redispatch_seconds=3_600):
            await jobs.ready(seconds=4.0)
            await until(lambda: road.of(PLAIN))
            await worker.accept([(job.id, job.version) for job in road.of(PLAIN)])

            own_servers.stop_postgres()
            await asyncio.sleep(1.5)  # Postgres is away for longer than the lease
            own_servers.start_postgres()
            await worker.idle(within=20)

        await until(lambda: answered(jobs))
        assert await jobs.actions(road.of(PLAIN)[0].id) == ["enqueue", "claim", "complete"]
