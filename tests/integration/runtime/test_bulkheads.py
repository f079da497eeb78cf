"""Bulkheads: jobs that hang hold their own slots; a stage, a key or an owner beside them goes on."""

import asyncio
import uuid
from contextlib import AsyncExitStack

import pytest

from gristmill_testing.waiting import until
from tests.support.fakes.road import FakeRoad
from tests.support.kernel import dispatching, passes

PLAIN = "proving.plain"
SLOTS = 50


@pytest.fixture
async def mill(database_url, registry, jobs, start_worker):
    """A dispatcher and one worker process of fifty slots, whose road carries batches."""
    worker = await start_worker(slots=SLOTS)
    async with AsyncExitStack() as stack:
        road = FakeRoad(worker.accept_from_road)
        await stack.enter_async_context(dispatching(database_url, registry, road, poll_seconds=0.02))
        yield worker, road
    worker.kernel.begin_drain()
    await road.delivered()


@pytest.fixture
async def hanging(jobs, mill):
    """250 jobs of one key and one owner that hang: they hold all slots, and more of them wait."""
    worker, road = mill
    owner = uuid.uuid4()
    await jobs.sql(
        "INSERT INTO proving.two_step_jobs (key, seconds, owner_id) "
        "SELECT 'hangs', 600, %s FROM generate_series(1, 250)",
        owner,
    )
    await until(lambda: len(worker.kernel.runs) >= SLOTS)
    await passes(road)
    return owner


async def done(jobs, table: str, job_id, *, within: float = 10.0) -> None:
    """Wait until a job has left its first step."""

    async def left() -> bool:
        [row] = await jobs.sql(f"SELECT status FROM proving.{table} WHERE id = %s", job_id)
        return row["status"] not in {"pending", "processing"}

    await until(left, within=within)


async def test_hanging_jobs_delay_no_other_stage(jobs, hanging):
    """Its jobs run in the room that each stage has beside the slots."""
    [urgent] = await jobs.ready(PLAIN, 1, priority=1)

    await done(jobs, "plain_jobs", urgent)


@pytest.mark.parametrize("priority", [1, 10])
@pytest.mark.parametrize("who", ["another key", "another owner", "neither"])
async def test_hanging_jobs_delay_no_other_key_and_no_other_owner(jobs, hanging, who, priority):
    """Whether it is urgent or not: the hanging jobs of one key and one owner hold more than their share."""
    [row] = await jobs.sql(
        "INSERT INTO proving.two_step_jobs (key, owner_id, priority) VALUES (%s, %s, %s) RETURNING id",
        "hangs" if who == "another owner" else "works",
        hanging if who == "another key" else uuid.uuid4(),
        priority,
    )

    await done(jobs, "two_step_jobs", row["id"])


async def test_one_stage_uses_every_slot_while_nobody_waits(jobs, mill):
    """Shares take no slot from anybody as long as there is nobody to give it to."""
    worker, _ = mill
    most = 0
    waiting = await jobs.ready(PLAIN, 200, seconds=0.1)
    while waiting:
        most = max(most, len(worker.kernel.runs))
        await asyncio.sleep(0.005)
        waiting = await jobs.sql("SELECT id FROM proving.plain_jobs WHERE status <> 'completed' LIMIT 1")

    assert SLOTS * 0.8 <= most <= SLOTS
    await until(lambda: worker.kernel.slots.free == SLOTS)
