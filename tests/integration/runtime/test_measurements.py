"""What processes measure, what happened minute by minute, and how long jobs wait: read without a scan."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from gristmill_testing.waiting import until
from tests.support.kernel import PLAIN, started_worker
from workers.runtime.handler.outcomes import Complete, Fail, Retry
from workers.runtime.measuring import BOUNDS, MEASUREMENTS, Measurements
from workers.runtime.operate.metrics import list_periods, read_metrics
from workers.runtime.refusals import Refusal
from workers.runtime.store.counts import fold_counts
from workers.runtime.store.lists import prepare_search
from workers.runtime.store.measurements import add_measurements, read_measurements
from workers.runtime.store.oldest import read_oldest_waits
from workers.runtime.store.processes import try_to_lead
from workers.runtime.store.verify import verify_history
from workers.runtime.worker import reporting
from workers.runtime.worker.reporting import Reports

HOUR = timedelta(hours=1)


async def measured(jobs) -> dict[tuple[str, str], int]:
    async with jobs.database.kernel() as conn:
        return {(one.name, one.labels): one.number for one in await read_measurements(conn)}


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Processes write what they measured at once, and begin with nothing."""
    monkeypatch.setattr(reporting, "REPORT_SECONDS", 0.05)
    MEASUREMENTS.take()


async def test_a_worker_writes_how_long_its_jobs_waited_ran_and_settled(jobs, worker):
    """One of each for each job."""
    tickets = await jobs.dispatched(count=3)
    await worker.run(tickets)

    labels = f'{{"stage": "{PLAIN}"}}'
    names = ("dispatch_seconds", "claim_seconds", "run_seconds", "settle_seconds")

    async def written() -> bool:
        found = await measured(jobs)
        return all(found.get((name, labels)) == 3 for name in names)

    await until(written)
    async with jobs.database.kernel() as conn:
        found = {one.name: one for one in await read_measurements(conn)}
    assert all(sum(found[name].buckets) == 3 and len(found[name].buckets) == len(BOUNDS) + 1 for name in names)


async def test_a_stale_write_is_counted(jobs, database_url, perform):
    """The job was moved on by somebody else just before its outcome."""

    @perform
    async def move_on(job, ctx):
        await jobs.unguarded("UPDATE proving.plain_jobs SET version = version + 1")
        return Complete()

    tickets = await jobs.dispatched()
    async with started_worker(database_url, perform.registry) as worker:
        await worker.run(tickets)

    assert (await measured(jobs))["stale_writes", f'{{"stage": "{PLAIN}"}}'] == 1


async def test_what_is_measured_at_once_by_many_is_added_up(jobs):
    """No process loses what another one adds."""

    async def process() -> None:
        own = Measurements()
        for _ in range(5):
            for stage in ("b", "a"):
                own.histogram("run_seconds", stage=stage).observe(0.2)
            async with jobs.database.kernel() as conn:
                await add_measurements(conn, own.take())

    await asyncio.gather(*(process() for _ in range(8)))

    assert await measured(jobs) == {("run_seconds", '{"stage": "a"}'): 40, ("run_seconds", '{"stage": "b"}'): 40}


async def test_what_cannot_be_written_is_written_later(jobs):
    """While the table is locked, nothing is lost and nothing raises."""
    own = Measurements()
    reports = Reports(jobs.database, own)
    own.counter("stale_writes", stage="a").add(2)
    async with jobs.database.transaction() as blocker:
        await blocker.execute("LOCK TABLE runtime.measurements IN ACCESS EXCLUSIVE MODE")
        await reports.write_last()
    own.counter("stale_writes", stage="a").add()

    await reports.write_last()

    assert await measured(jobs) == {("stale_writes", '{"stage": "a"}'): 3}


async def test_what_happened_is_told_by_period_and_the_counts_agree(jobs):
    """Two failed, one was enqueued twice; `jobs verify` finds nothing wrong."""
    async with jobs.database.kernel() as conn:
        term = await try_to_lead(conn, name="one")
        assert term is not None
    done, failed, retried = await jobs.running(count=3)
    await jobs.settle(done, Complete())
    await jobs.settle(failed, Fail("no"))
    await jobs.settle(retried, Retry("no"))
    async with jobs.database.kernel() as conn:
        while await fold_counts(conn, term=term, limit=100):
            pass
        now = datetime.now(UTC)
        [found] = await list_periods(conn, since=now - HOUR, until=now + HOUR, period=24 * HOUR, stage=PLAIN)
        assert [one.miscounted for one in await verify_history(conn)] == [0]
        async with conn.transaction():
            metrics = await read_metrics(conn)

    assert (found.enqueued, found.started, found.completed, found.failed, found.retried) == (3, 3, 1, 1, 1)
    assert (found.cancelled, found.rescued, found.snoozed) == (0, 0, 0)
    assert {(one.action, one.jobs) for one in metrics.actions} == {
        ("enqueue", 3), ("claim", 3), ("complete", 1), ("fail", 1), ("retry", 1),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("period", "length", "line"),
    [
        (timedelta(seconds=90), HOUR, "period must be whole minutes, got 90 s"),
        (timedelta(minutes=1), timedelta(days=8), "period must be long enough for at most 1,500 periods"),
        (timedelta(minutes=1), -HOUR, "to must be after from"),
    ],
)
async def test_a_plot_without_end_is_refused(jobs, period, length, line):
    """The line names the field and the rule."""
    now = datetime.now(UTC)
    async with jobs.database.kernel() as conn:
        with pytest.raises(Refusal, match=line):
            await list_periods(conn, since=now, until=now + length, period=period)


async def oldest(jobs) -> dict[str, timedelta | None]:
    async with jobs.database.kernel() as conn, conn.transaction():
        await prepare_search(conn)
        return {one.stage: one.waited for one in await read_oldest_waits(conn)}


async def test_the_oldest_wait_is_that_of_the_job_that_is_ready_longest(jobs):
    """A retried job waits since it was ready again, a job of later not at all."""
    assert (await oldest(jobs))[PLAIN] is None
    await jobs.ready(due_at="2999-01-01T00:00:00Z")
    assert (await oldest(jobs))[PLAIN] is None

    insert = "INSERT INTO proving.plain_jobs (id, version, created_at, updated_at, due_at) VALUES (uuidv7(%s), 1, "
    ages = [timedelta(hours=-3), timedelta(hours=-2), timedelta(hours=-1)]
    for age in ages:
        await jobs.unguarded(insert + "now() + %s, now() + %s, NULL)", age, age, age)
    # The oldest was retried five minutes ago.
    await jobs.unguarded(
        "UPDATE proving.plain_jobs SET version = 3, updated_at = now() - interval '5 minutes' "
        "WHERE created_at < now() - interval '150 minutes'"
    )
    waited = (await oldest(jobs))[PLAIN]
    assert waited is not None
    assert timedelta(hours=2) <= waited < timedelta(hours=2, minutes=1)

    await jobs.unguarded(
        "UPDATE proving.plain_jobs SET dispatched_at = now() WHERE created_at < now() - interval '1 minute'"
    )
    flying = (await oldest(jobs))[PLAIN]
    assert flying is not None
    assert timedelta(hours=2) <= flying < timedelta(hours=2, minutes=1)


async def test_a_job_that_is_due_and_not_woken_waits_since_then(jobs):
    """The dispatcher may be away."""
    await jobs.unguarded("INSERT INTO proving.plain_jobs (due_at) VALUES (now() - interval '1 hour')")

    waited = (await oldest(jobs))[PLAIN]

    assert waited is not None
    assert HOUR <= waited < 2 * HOUR
