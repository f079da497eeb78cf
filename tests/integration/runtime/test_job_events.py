"""Many followers share one connection: what they see, what it costs, and what happens after a loss."""

import asyncio
import uuid
from collections import Counter
from contextlib import aclosing
from typing import Any

import psycopg
import pytest

from gristmill_testing.waiting import until
from tests.support.proving.models import PlainJob, WaitingJob
from tests.support.waits import ASK
from workers.runtime.database import Raw
from workers.runtime.handler.outcomes import Complete, Fail
from workers.runtime.operate.events import JobEvents
from workers.runtime.operate.jobs import UnknownJob
from workers.runtime.refusals import Failed
from workers.runtime.store.intervene import cancel
from workers.runtime.store.settle import settle

NAME = "follower-of-the-test"
# A poll so late that it does not come during a test: a change seen earlier came by a notification.
NEVER = 3_600.0
COMPLETED_UNTOLD = """UPDATE proving.plain_jobs SET status = 'completed', completed_at = now(), version = version + 1
                       WHERE id = %s"""


class Counted(JobEvents):
    """A source that counts its connections and, by their first words, its statements."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"changed_by": NAME, **options})
        self.sent: Counter[str] = Counter()

    async def _connect(self) -> Raw:
        source, connection = self, await super()._connect()
        self.sent["CONNECT"] += 1

        class Cursor(psycopg.AsyncCursor[Any]):
            async def execute(self, query: Any, *rest: Any, **options: Any) -> Any:
                text = query if isinstance(query, str) else query.decode()
                source.sent["LOOK" if "FROM runtime.jobs" in text else text.split()[0]] += 1
                return await super().execute(query, *rest, **options)

        connection.cursor_factory = Cursor
        return connection


async def states(events, job_id, seen=None, **options):
    """Return the states that a follower sees."""
    seen = [] if seen is None else seen
    async for job in events.follow(job_id, **options):
        seen.append(job.status)
    return seen


async def versions(events, job_id, seen=None, **options):
    """Return the versions that a follower of the history gets."""
    seen = [] if seen is None else seen
    async for one in events.transitions(job_id, **options):
        seen.append(one.version_to)
    return seen


async def test_an_end_is_told_at_once(jobs, database_url):
    """A follower sees the end before the next poll."""
    [job] = await jobs.running()
    async with Counted(database_url, poll_seconds=NEVER) as events:
        seen: list[str] = []
        follower = asyncio.create_task(states(events, job.id, seen))
        await until(lambda: seen == ["processing"])

        await jobs.settle(job, Complete())

        assert await asyncio.wait_for(follower, 5) == ["processing", "completed"]


async def test_a_lost_notification_costs_one_poll(jobs, database_url):
    """No notification is sent for this end; the next poll finds it."""
    [job] = await jobs.running()
    async with Counted(database_url, poll_seconds=0.2) as events:
        seen: list[str] = []
        follower = asyncio.create_task(states(events, job.id, seen))
        await until(lambda: seen == ["processing"])

        await jobs.unguarded(COMPLETED_UNTOLD, job.id)

        assert await asyncio.wait_for(follower, 5) == ["processing", "completed"]


async def test_a_notification_that_lists_no_job_has_all_of_its_table_looked_at(jobs, database_url):
    """Invalid notifications, and those of a table that nobody follows, change nothing."""
    [job] = await jobs.running()
    async with Counted(database_url, poll_seconds=NEVER) as events:
        seen: list[str] = []
        follower = asyncio.create_task(states(events, job.id, seen))
        await until(lambda: seen == ["processing"])
        looks = events.sent["LOOK"]
        await jobs.unguarded(COMPLETED_UNTOLD, job.id)
        for payload in ("", "proving.plain_jobs what", "proving.keyed_jobs"):
            await jobs.sql("SELECT pg_notify('gristmill_done', %s)", payload)
        await events.ask(lambda conn: conn.execute("SELECT 1"))
        assert (events.sent["LOOK"], seen) == (looks, ["processing"])

        await jobs.sql("SELECT pg_notify('gristmill_done', 'proving.plain_jobs')")

        assert await asyncio.wait_for(follower, 5) == ["processing", "completed"]


async def test_of_more_jobs_than_a_notification_lists_all_are_seen(jobs, database_url):
    """One statement moves 250 jobs; the payload has room for 200."""
    async with Counted(database_url, poll_seconds=NEVER) as events:
        ids = await jobs.ready(ASK, 250)
        seen: list[list[str]] = [[] for _ in ids]
        followers = [asyncio.create_task(states(events, id_, one)) for id_, one in zip(ids, seen, strict=True)]
        await until(lambda: all(seen))

        running = await jobs.running(ASK, 0)
        rows = [jobs.outcome(one, Complete(), ASK) for one in running]
        async with jobs.database.kernel() as conn:
            await settle(conn, WaitingJob, rows)

        await until(lambda: all(one[-1] == "awaiting_approval" for one in seen))
        for follower in followers:
            follower.cancel()


async def test_a_job_that_is_deleted_while_followed_is_told_as_such(jobs, database_url):
    """The follower gets its history first, which exists longer than the job."""
    [job] = await jobs.running()
    async with Counted(database_url, poll_seconds=0.2) as events:
        seen: list[str] = []
        history: list[int] = []
        follower = asyncio.create_task(states(events, job.id, seen))
        reader = asyncio.create_task(versions(events, job.id, history))
        await until(lambda: seen and history == [1, 2])

        await jobs.sql("DELETE FROM proving.plain_jobs WHERE id = %s", job.id)

        for task in (follower, reader):
            with pytest.raises(UnknownJob, match=str(job.id)):
                await asyncio.wait_for(task, 5)
        with pytest.raises(UnknownJob):
            await versions(events, job.id, history)
    assert history == [1, 2, 1, 2]


async def test_a_job_that_never_was_is_unknown(database_url):
    """Following it raises UnknownJob."""
    async with Counted(database_url) as events:
        with pytest.raises(UnknownJob):
            await states(events, uuid.uuid4())
        with pytest.raises(UnknownJob):
            await versions(events, uuid.uuid4())


async def test_a_history_is_resumed_behind_the_version_one_has(jobs, database_url):
    """Each version comes once and in order, over many pages, also after a retry by a person."""
    [job] = await jobs.running()
    async with Counted(database_url, page=2) as events:
        await jobs.settle(job, Fail("bad"))
        whole = await versions(events, job.id)

        assert whole == list(range(1, len(whole) + 1))
        assert [await versions(events, job.id, after=after) for after in whole] == [whole[at:] for at in whole]
        assert await versions(events, job.id, after=1_000) == []


async def test_a_slow_follower_gets_the_newest_state_and_a_slow_reader_every_version(jobs, database_url):
    """Neither delays the others, and nothing is queued for them."""
    [job] = await jobs.running()
    async with (
        Counted(database_url, poll_seconds=0.1, page=1) as events,
        aclosing(events.follow(job.id)) as slow,
        aclosing(events.transitions(job.id)) as reader,
    ):
        assert (await anext(slow)).status == "processing"
        assert (await anext(reader)).version_to == 1
        await jobs.settle(job, Fail("bad"))
        assert (await states(events, job.id))[-1] == "failed"

        assert (await anext(slow)).status == "failed"
        assert [one.version_to async for one in reader] == list(range(2, job.version + 2))


async def test_a_lost_connection_loses_no_event(jobs, database_url):
    """Changes during the loss are read on the new connection; the followers notice nothing."""
    [job] = await jobs.running()
    lines: list[str] = []
    async with Counted(database_url, poll_seconds=NEVER, tell=lines.append) as events:
        seen: list[int] = []
        reader = asyncio.create_task(versions(events, job.id, seen))
        await until(lambda: len(seen) == job.version)

        await jobs.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", NAME)
        await jobs.settle(job, Complete())

        assert await asyncio.wait_for(reader, 10) == list(range(1, job.version + 2))
    assert (len(lines), events.sent["CONNECT"]) == (2, 2)


async def test_a_thousand_followers_share_a_connection_and_a_statement(jobs, database_url):
    """However many follow, and whatever ends meanwhile."""
    ids = await jobs.ready(count=1_000)
    async with Counted(database_url, poll_seconds=NEVER) as events:
        seen: list[list[str]] = [[] for _ in ids]
        followers = [asyncio.create_task(states(events, id_, one)) for id_, one in zip(ids, seen, strict=True)]
        readers = [asyncio.create_task(versions(events, id_)) for id_ in ids]
        await until(lambda: all(seen), within=20)
        looks = events.sent["LOOK"]
        connections = await jobs.sql("SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = %s", NAME)

        async with jobs.database.kernel() as conn:
            await cancel(conn, PlainJob, ids, reason="no more")

        assert all(one[-1] == "cancelled" for one in await asyncio.wait_for(asyncio.gather(*followers), 20))
        assert all(one == [1, 2] for one in await asyncio.wait_for(asyncio.gather(*readers), 20))
        assert looks <= 3
        assert events.sent["LOOK"] <= looks + 2
        assert sum(events.sent.values()) <= 20
        assert connections == [{"n": 1}]


async def test_jobs_of_two_tables_with_one_id_are_told_apart(jobs, database_url):
    """Each follower names its table."""
    id_ = uuid.uuid4()
    await jobs.sql("INSERT INTO proving.plain_jobs (id) VALUES (%s)", id_)
    await jobs.sql("INSERT INTO proving.two_step_jobs (id) VALUES (%s)", id_)
    [plain] = await jobs.running(count=0)
    await jobs.settle(plain, Complete())
    async with Counted(database_url) as events:
        assert await states(events, id_, table="proving.plain_jobs") == ["completed"]
        assert await versions(events, id_, table="proving.plain_jobs") == [1, 2, 3]
        async with aclosing(events.follow(id_, table="proving.two_step_jobs")) as other:
            assert (await anext(other)).table_name == "proving.two_step_jobs"


@pytest.fixture
def service_url(fresh_database_url):
    """The URL of a service's login that sees no plain job."""
    with psycopg.connect(fresh_database_url, autocommit=True) as conn:
        conn.execute("ALTER TABLE proving.plain_jobs ENABLE ROW LEVEL SECURITY")
    return f"{fresh_database_url}?options=-c%20role%3Dgristmill_service"


async def test_a_job_that_the_reader_may_not_see_does_not_exist_for_it(fresh_database_url, service_url):
    """Row level security applies to followers."""
    with psycopg.connect(fresh_database_url, autocommit=True) as conn:
        [[id_]] = conn.execute("INSERT INTO proving.plain_jobs DEFAULT VALUES RETURNING id").fetchall()

    async with Counted(service_url) as events:
        with pytest.raises(UnknownJob):
            await states(events, id_)
        with pytest.raises(UnknownJob):
            await versions(events, id_)


async def test_where_the_reader_may_not_read_a_table_everyone_who_follows_is_told(fresh_database_url, service_url):
    """Every follower gets the error; none waits for ever."""
    with psycopg.connect(fresh_database_url, autocommit=True) as conn:
        conn.execute("REVOKE SELECT ON proving.plain_jobs FROM gristmill_service")

    async with Counted(service_url) as events:
        followers = [asyncio.create_task(read(events, uuid.uuid4())) for read in (states, versions)]
        for follower in followers:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await asyncio.wait_for(follower, 5)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await states(events, uuid.uuid4())


async def test_when_the_source_closes_nobody_goes_on_waiting(jobs, database_url):
    """When the process stops, its streams end."""
    [id_] = await jobs.ready()
    async with Counted(database_url) as events:
        seen: list[str] = []
        follower = asyncio.create_task(states(events, id_, seen))
        await until(lambda: seen)

    with pytest.raises(Failed, match="stops"):
        await asyncio.wait_for(follower, 5)


async def test_who_waits_for_some_jobs_is_woken_by_theirs_only(jobs, database_url):
    """Waiting sends no statement."""
    mine, other = await jobs.running(count=2)
    async with Counted(database_url) as events:
        await events.ask(lambda conn: conn.execute("SELECT 1"))
        waiter = asyncio.create_task(events.wait([mine.id], NEVER))
        await jobs.settle(other, Complete())
        await events.ask(lambda conn: conn.execute("SELECT 1"))
        assert not waiter.done()

        await jobs.settle(mine, Complete())

        await asyncio.wait_for(waiter, 5)
        await events.wait([mine.id], 0.01)
    assert events.sent["LOOK"] == 0
