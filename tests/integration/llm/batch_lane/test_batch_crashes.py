"""A worker dies at each step of the batch lane; another goes on: one batch, each line paid once, each job done once."""

import asyncio
import os
import sys
from collections.abc import Iterator

import pytest

from gristmill_testing.waiting import until
from tests.support.batching import Lane, batching
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.paths import ROOT
from workers.runtime.failpoints import EXIT_CODE, VARIABLE

JOBS = 3
# What happens before the provider's batch is over, and after it.
SUBMITTING = [
    "batch_ask.before",
    "batch_ask.after",
    "batch_gather.before",
    "batch_gather.after",
    "batch_upload.before",
    "batch_upload.after",
    "checkpoint.after:1",
    "checkpoint.before:2",
    "checkpoint.after:2",
    "batch_create.before",
    "batch_create.after",
    "checkpoint.before:3",
    "checkpoint.after:3",
]
COLLECTING = ["batch_take.before", "batch_take.after", "checkpoint.after:4", "batch_wake.before", "batch_wake.after"]
# OpenRouter takes no file: there is one checkpoint less, and no upload.
ROUTER = ["batch_gather.after", "batch_create.before", "batch_create.after", "checkpoint.after:1", "batch_take.after"]


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    """A provider with batches, which ends a batch at the first look."""
    with FakeOpenAI() as fake:
        yield fake


async def crash(url: str, fake: FakeOpenAI, kind: str, point: str, lane: Lane) -> None:
    """Run a worker process until it has died at ``point``."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.batch_crashes", url, fake.url, kind,
        cwd=ROOT,
        env={**os.environ, VARIABLE: point},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    polling = asyncio.create_task(poll_for_ever(lane))
    try:
        _, said = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == EXIT_CODE, said.decode()[-2_000:]
    finally:
        polling.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def poll_for_ever(lane: Lane) -> None:
    """End the waits of batches, as beat would."""
    while True:
        await lane.poll(wait=False)
        await asyncio.sleep(0.2)


async def goes_on(url, registry, jobs, fake, *, kind, point) -> Lane:
    """Crash at ``point``, then let a healthy worker finish; return the lane."""
    before = Lane(jobs, fake, None)  # type: ignore[arg-type]  # nobody hears the dead
    ids = await before.put(JOBS)
    await crash(url, fake, kind, point, before)
    # The lease of the dead worker and its tickets are over at once; nobody waits for that in a test.
    await jobs.sql("DELETE FROM runtime.workers")
    await jobs.unguarded("UPDATE llm.batches SET dispatched_at = NULL WHERE status IN ('pending', 'due')")
    await jobs.unguarded("UPDATE scoring.scoring_jobs SET dispatched_at = NULL WHERE status = 'pending'")
    async with batching(url, registry, jobs, fake, kind=kind) as lane:
        lane.enqueued = ids
        polling = asyncio.create_task(poll_for_ever(lane))
        try:

            async def done():
                # What a rescue or a backoff delays is due at once; a parked job stays asleep.
                for table in ("llm.batches", "scoring.scoring_jobs"):
                    await jobs.unguarded(
                        f"UPDATE {table} SET due_at = NULL WHERE due_at IS NOT NULL "
                        "AND change_action IN ('retry', 'rescue')"
                    )
                return set(await lane.states(ids)) == {"completed"}

            await until(done, within=60)

            async def closed():
                return {row["status"] for row in await lane.batches()} == {"completed"}

            await until(closed, within=30)
        finally:
            polling.cancel()
        return lane


@pytest.mark.parametrize("point", SUBMITTING + COLLECTING)
async def test_a_crash_at_any_step_leads_to_no_second_batch(database_url, registry, jobs, fake, point):
    """Row 17: the provider has one batch; every line is in the ledger once, at what the provider says of it."""
    fake.script(batches={"auto": True})

    lane = await goes_on(database_url, registry, jobs, fake, kind="compatible", point=point)

    batches = fake.batches.batches
    if point == "batch_ask.after":  # one question alone may be gathered before the others are kept
        assert sum(len(one.lines) for one in batches) == JOBS
    else:
        assert [len(one.lines) for one in batches] == [JOBS]
    assert len(set(fake.batches.lines)) == JOBS
    paid = await lane.paid()
    assert (paid["settled"], paid["reserved"]) == (JOBS, 0)
    assert paid["tokens"] == fake.batches.tokens
    assert fake.calls == 0


@pytest.mark.parametrize("point", ROUTER)
async def test_the_same_without_files(database_url, registry, jobs, fake, point):
    """The batch is found again by what it is, or by its key."""
    fake.script(batches={"auto": True})

    lane = await goes_on(database_url, registry, jobs, fake, kind="openrouter", point=point)

    assert [len(one.lines) for one in fake.batches.batches] == [JOBS]
    assert (await lane.paid())["tokens"] == fake.batches.tokens
    assert fake.calls == 0
