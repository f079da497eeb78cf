"""Followers of the feed: what they see, what it costs, and what happens to a slow one."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from gristmill_testing.waiting import until
from tests.support.kernel import Jobs
from workers.runtime.operate import feed as module
from workers.runtime.operate.events import JobEvents
from workers.runtime.operate.feed import Feed, Following, Places, SlowFollower
from workers.runtime.store.feed import FeedFilter, FeedPosition, ForeignPosition, find_horizon, read_moved
from workers.runtime.store.read import TransitionView

ALL = FeedFilter()
START = FeedPosition(0)


class Everybody:
    """Sees everything."""

    def __init__(self, key: Hashable = "all") -> None:
        self.key = key
        self.asked = 0

    async def find_visible(self, jobs: Places) -> Places:
        self.asked += 1
        return jobs


def encode(position: FeedPosition, one: TransitionView) -> bytes:
    return f"{position} {one.job_id} {one.version_to}".encode()


@asynccontextmanager
async def opened(jobs: Jobs, url: str, **options: Any) -> AsyncIterator[Feed]:
    async def read_all(query: Any) -> Any:
        async with jobs.database.transaction() as conn:
            return await query(conn)

    async with (
        JobEvents(url, changed_by="feed") as events,
        Feed(events, read_all=read_all, encode=encode, **options).running() as feed,
    ):
        yield feed


async def take(following: Following, count: int) -> list[tuple[str, int]]:
    """Return the next so many events."""
    found: list[tuple[str, int]] = []
    while len(found) < count:
        for event in await asyncio.wait_for(following.take(), 20):
            _, job, version = event.decode().split(" ")
            found.append((job, int(version)))
    return found


async def test_a_follower_sees_what_happens_from_now_on(jobs, database_url):
    """And nothing of before."""
    await jobs.ready()
    async with opened(jobs, database_url) as feed:
        following = await feed.follow(Everybody(), ALL)
        ids = await jobs.ready(count=3)

        assert await take(following, 3) == [(str(id_), 1) for id_ in sorted(ids)]


async def test_a_follower_goes_on_where_it_was(jobs, database_url):
    """What is stored and what comes meet without a gap."""
    first = await jobs.ready(count=5)
    async with opened(jobs, database_url) as feed:
        following = await feed.follow(Everybody(), ALL, after=START)
        more = await jobs.ready(count=5)

        found = await take(following, 10)

    assert found == [(str(id_), 1) for id_ in (*sorted(first), *sorted(more))]


async def test_followers_of_one_viewer_share_its_reads(jobs, database_url):
    """A hundred followers cost as many statements as one."""
    viewer = Everybody()
    async with opened(jobs, database_url) as feed:
        followers = [await feed.follow(viewer, ALL) for _ in range(100)]
        [id_] = await jobs.ready()

        for following in followers:
            assert await take(following, 1) == [(str(id_), 1)]

    assert viewer.asked == 1


async def test_idle_followers_cost_nothing(jobs, database_url):
    """What concerns others is not read for them."""
    idle, busy = Everybody("idle"), Everybody("busy")
    async with opened(jobs, database_url) as feed:
        waiting = [
            await feed.follow(idle, FeedFilter(stages=("proving.keyed",))),
            await feed.follow(idle, FeedFilter(owner_id=uuid.uuid4())),
            await feed.follow(idle, FeedFilter(about=("key", "mine"))),
        ]
        following = await feed.follow(busy, ALL)
        for _ in range(5):
            await jobs.ready(key="theirs")
        await take(following, 5)
        assert idle.asked == 0

        await jobs.ready("proving.keyed", key="mine")
        assert len(await take(waiting[0], 1)) == len(await take(waiting[2], 1)) == 1


async def test_what_moved_is_found_for_each_filter(jobs):
    """Stage, owner and what the job is about; a deleted job has its stage."""
    async with jobs.database.kernel() as conn:
        start = (await find_horizon(conn)).transaction_id
        await jobs.ready("proving.keyed", key="k")
        [gone] = await jobs.ready()
        await jobs.unguarded("DELETE FROM proving.plain_jobs WHERE id = %s", gone)
        end = (await find_horizon(conn)).transaction_id

        found = await read_moved(conn, start, end, about=("key",))

    assert {tuple(one) for one in found} == {
        ("proving.keyed", None, ("k",)),
        ("proving.keyed", None, None),
        ("proving.plain", None, None),
    }


async def test_a_viewer_gets_only_what_it_sees(jobs, database_url):
    """The positions go on."""

    class Half(Everybody):
        async def find_visible(self, jobs: Places) -> Places:
            return {(id_, stage) for id_, stage in jobs if stage == "proving.keyed"}

    async with opened(jobs, database_url) as feed:
        following = await feed.follow(Half(), ALL)
        before = following.position
        await jobs.ready(count=3)
        [keyed] = await jobs.ready("proving.keyed")

        assert await take(following, 1) == [(str(keyed), 1)]
        assert following.position > before


async def test_a_slow_follower_is_cut_and_goes_on(jobs, database_url, monkeypatch):
    """Nothing is kept for it without end, and it loses nothing."""
    monkeypatch.setattr(module, "MAX_QUEUED", 5)
    async with opened(jobs, database_url) as feed:
        slow, quick = await feed.follow(Everybody(), ALL), await feed.follow(Everybody(), ALL)
        [first] = await jobs.ready()
        assert await take(slow, 1) == [(str(first), 1)]
        assert await take(quick, 1) == [(str(first), 1)]
        position = slow.position
        rest = []
        for _ in range(7):
            rest += await jobs.ready()
            await take(quick, 1)

        with pytest.raises(SlowFollower):
            await take(slow, 1)
        assert slow.position <= position

        again = await feed.follow(Everybody(), ALL, after=slow.position)
        assert await take(again, 7) == [(str(id_), 1) for id_ in rest]


async def test_a_follower_that_reads_what_was_is_not_cut(jobs, database_url, monkeypatch):
    """However much comes meanwhile."""
    monkeypatch.setattr(module, "MAX_QUEUED", 5)
    monkeypatch.setattr(module, "PAGE", 4)
    made = [id_ for _ in range(10) for id_ in await jobs.ready()]
    async with opened(jobs, database_url) as feed:
        quick = await feed.follow(Everybody(), ALL)
        late = await feed.follow(Everybody(), ALL, after=START)
        for _ in range(12):
            made += await jobs.ready()
            await take(quick, 1)

        assert await take(late, 22) == [(str(id_), 1) for id_ in made]


async def test_a_position_of_another_database_is_refused(jobs, database_url):
    """Before anything is followed."""
    async with opened(jobs, database_url) as feed:
        with pytest.raises(ForeignPosition):
            await feed.follow(Everybody(), ALL, after=FeedPosition(2**50))


async def test_a_viewer_that_loses_its_right_ends(jobs, database_url):
    """Its followers get the reason; others go on."""

    class Revoked(Exception):
        pass

    class Doomed(Everybody):
        async def find_visible(self, jobs: Places) -> Places:
            raise Revoked

    async with opened(jobs, database_url) as feed:
        doomed, other = await feed.follow(Doomed("doomed"), ALL), await feed.follow(Everybody(), ALL)
        [id_] = await jobs.ready()

        with pytest.raises(Revoked):
            await take(doomed, 1)
        assert await take(other, 1) == [(str(id_), 1)]


INSERT = "INSERT INTO proving.plain_jobs DEFAULT VALUES RETURNING id"


async def _write(url: str, own: random.Random) -> None:
    """Make jobs in transactions of different lengths; some are rolled back."""
    async with await psycopg.AsyncConnection.connect(url) as writer:
        for _ in range(20):
            for _ in range(own.randint(1, 4)):
                await writer.execute(INSERT)
                await asyncio.sleep(0)
            await (writer.rollback() if own.random() < 0.2 else writer.commit())


async def _read_and_die(feed: Feed, start: FeedPosition, seen: list[str], own: random.Random) -> None:
    """Follow, go away at random events, and come back there."""
    position = start
    while True:
        following = await feed.follow(Everybody(own.choice("ab")), ALL, after=position)
        try:
            for _ in range(own.randint(1, 4)):
                events = await following.take()
                kept = events[: own.randint(1, len(events))]
                seen += [event.decode().split(" ")[1] for event in kept]
                position = FeedPosition.parse(kept[-1].decode().split(" ")[0])
                if len(kept) < len(events):
                    break
            else:
                position = following.position
        finally:
            following.close()


@pytest.mark.parametrize("seed", range(3))
async def test_followers_that_resume_anywhere_see_each_event_once(jobs, database_url, seed):
    """While writers commit in another order than they began."""
    async with jobs.database.kernel() as conn:
        start = await find_horizon(conn)
    draws = [random.Random(f"{seed} {nth}") for nth in range(8)]
    seen: list[list[str]] = [[] for _ in range(3)]
    async with opened(jobs, database_url, poll_seconds=0.05) as feed:
        readers = [
            asyncio.create_task(_read_and_die(feed, start, mine, own))
            for mine, own in zip(seen, draws[:3], strict=True)
        ]
        await asyncio.gather(*(_write(database_url, own) for own in draws[3:]))
        recorded = {str(row["job_id"]) for row in await jobs.sql("SELECT job_id FROM runtime.transitions")}
        await until(lambda: all(len(mine) >= len(recorded) for mine in seen), within=30)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)

    for mine in seen:
        assert len(mine) == len(set(mine))
        assert set(mine) == recorded
    assert seen[0] == seen[1] == seen[2]
