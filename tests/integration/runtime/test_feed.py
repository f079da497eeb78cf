"""The stream of transitions: each one exactly once, in one order, for whoever goes on anywhere."""

import asyncio
import random
import re
import uuid
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.support.kernel import PLAIN, Jobs
from workers.runtime.database import Raw
from workers.runtime.handler.outcomes import Complete
from workers.runtime.refusals import Refusal
from workers.runtime.store import feed as feed_module
from workers.runtime.store.feed import FeedFilter, FeedPosition, ForeignPosition, find_horizon, read_feed

INSERT = "INSERT INTO proving.plain_jobs DEFAULT VALUES RETURNING id"
CANCEL = """UPDATE proving.plain_jobs SET status = 'cancelled', version = version + 1, completed_at = now()
             WHERE id = %s AND completed_at IS NULL"""
START = FeedPosition(0)


async def read_all(
    conn: Raw, after: FeedPosition = START, *, limit: int = 3, only: FeedFilter | None = None
) -> list[Any]:
    """Read page by page until nothing is left; return (job, version) in order."""
    found = []
    while True:
        page = await read_feed(conn, after, limit=limit, only=only or FeedFilter())
        found += [(one.job_id, one.version_to) for one in page.transitions]
        after = page.after
        if page.is_current:
            return found


async def test_a_stream_has_every_transition_in_the_order_of_commits(jobs):
    """Also of jobs whose transaction had many."""
    [first] = await jobs.ready()
    many = await jobs.ready(count=10)
    [job, *_] = await jobs.running(count=0)
    await jobs.settle(job, Complete())

    async with jobs.database.kernel() as conn:
        found = await read_all(conn)

    recorded = await jobs.sql("SELECT job_id, version_to FROM runtime.transitions")
    assert sorted(found) == sorted((row["job_id"], row["version_to"]) for row in recorded)
    assert found[0] == (first, 1)
    assert found[1:11] == [(one, 1) for one in sorted(many)]
    assert found[-1] == (job.id, 3)


async def test_what_commits_late_is_behind_nobody(jobs, database_url):
    """A transaction that began before others holds the stream until it ends."""
    async with await psycopg.AsyncConnection.connect(database_url) as slow, jobs.database.kernel() as conn:
        start = await find_horizon(conn)
        late = (await (await slow.execute(INSERT)).fetchone() or [None])[0]
        [early] = await jobs.ready()

        held = await read_feed(conn, start, limit=10)
        assert (list(held.transitions), held.is_current) == ([], True)

        await slow.commit()
        assert await read_all(conn, held.after) == [(late, 1), (early, 1)]


async def write(database_url: str, own: random.Random) -> None:
    """Make and move jobs in transactions of different lengths; some are rolled back."""
    async with await psycopg.AsyncConnection.connect(database_url) as writer:
        known: list[UUID] = []
        for _ in range(25):
            for _ in range(own.randint(1, 4)):
                row = await (await writer.execute(INSERT)).fetchone()
                assert row is not None
                known.append(row[0])
                await asyncio.sleep(0)
                if own.random() < 0.3:
                    await writer.execute(CANCEL, [own.choice(known)])
            await (writer.rollback() if own.random() < 0.2 else writer.commit())


async def read_until(
    jobs: Jobs, after: FeedPosition, own: random.Random, done: asyncio.Event
) -> list[tuple[UUID, int]]:
    """Read a stream until it is current after the writers are done; die after random events, and go on there."""
    seen: list[tuple[UUID, int]] = []
    was_done = False
    while True:
        is_done = done.is_set()
        async with jobs.database.kernel() as conn:
            page = await read_feed(conn, after, limit=own.randint(1, 7))
        # It may have died after any event of the page.
        kept = len(page.transitions) if own.random() < 0.6 else own.randint(0, len(page.transitions))
        seen += [(one.job_id, one.version_to) for one in page.transitions[:kept]]
        if kept < len(page.transitions):
            after = FeedPosition.parse(str(page.positions[kept - 1])) if kept else after
            continue
        after = page.after
        if page.is_current and was_done:
            return seen
        was_done = is_done


@pytest.mark.parametrize("seed", range(5))
async def test_a_reader_that_resumes_anywhere_sees_each_transition_once(jobs, database_url, seed):
    """Writers commit in another order than they began; readers stop and go on at random events and page sizes."""
    draws = [random.Random(f"{seed} {nth}") for nth in range(9)]
    async with jobs.database.kernel() as conn:
        start = await find_horizon(conn)
    done = asyncio.Event()

    readers = [asyncio.ensure_future(read_until(jobs, start, own, done)) for own in draws[:3]]
    await asyncio.gather(*(write(database_url, own) for own in draws[3:]))
    done.set()
    streams = await asyncio.gather(*readers)

    recorded = await jobs.sql("SELECT job_id, version_to FROM runtime.transitions")
    everything = {(row["job_id"], row["version_to"]) for row in recorded}
    assert len(everything) > 150
    assert sorted(streams[0]) == sorted(everything)
    assert streams[0] == streams[1] == streams[2]


async def test_a_stream_has_what_its_filter_asks_for(jobs, psql):
    """Stages, an owner, and something that jobs are about."""
    owner = uuid.uuid4()
    with psql.transaction():
        psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(owner)])
        own = psql.execute(INSERT).fetchone()["id"]
    [plain] = await jobs.ready(key="k")
    [keyed] = await jobs.ready("proving.keyed", key="k")
    [other] = await jobs.ready("proving.keyed", key="other")

    async with jobs.database.kernel() as conn:
        assert await read_all(conn, only=FeedFilter(owner_id=owner)) == [(own, 1)]
        assert await read_all(conn, only=FeedFilter(stages=["proving.keyed"])) == [(keyed, 1), (other, 1)]
        assert await read_all(conn, only=FeedFilter(about=("key", "k"))) == [(plain, 1), (keyed, 1)]
        both = FeedFilter(about=("key", "k"), stages=["proving.keyed"])
        assert await read_all(conn, only=both) == [(keyed, 1)]
        assert await read_all(conn, only=FeedFilter(about=("no_such_attribute", "k"))) == []
        assert await read_all(conn, only=FeedFilter(stages=[])) == []


async def test_a_tenant_reads_only_its_own(jobs, psql, database_url):
    """Row level security counts, also while others' transitions lie between."""
    mine, theirs = uuid.uuid4(), uuid.uuid4()
    made: dict[UUID, list[UUID]] = {mine: [], theirs: []}
    for who in (mine, theirs, theirs, mine, theirs):
        with psql.transaction():
            psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(who)])
            made[who].append(psql.execute(INSERT).fetchone()["id"])

    async with await psycopg.AsyncConnection.connect(database_url) as conn:
        await conn.execute("SET LOCAL ROLE gristmill_service")
        await conn.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(mine)])
        assert await read_all(conn, limit=1) == [(one, 1) for one in made[mine]]
        await conn.execute("SELECT set_config('gristmill.user_id', '', true)")
        assert await read_all(conn) == []


async def test_one_call_looks_at_a_bounded_number_of_rows(jobs, monkeypatch):
    """A reader who asks for few jobs, or may see few, does not keep its connection for minutes."""
    monkeypatch.setattr(feed_module, "ROWS_PER_STEP", 2)
    monkeypatch.setattr(feed_module, "MAX_STEPS", 3)
    async with jobs.database.kernel() as conn:
        start = await find_horizon(conn)
        for _ in range(10):
            await jobs.ready()
        [wanted] = await jobs.ready("proving.keyed")
        only = FeedFilter(stages=["proving.keyed"])

        page = await read_feed(conn, start, limit=10, only=only)

        assert (list(page.transitions), page.is_current) == ([], False)
        assert page.after < FeedPosition((await find_horizon(conn)).transaction_id)
        assert await read_all(conn, page.after, only=only) == [(wanted, 1)]


async def test_jobs_with_equal_ids_in_two_tables_are_two_events(jobs):
    """The stage is part of the position."""
    id_ = uuid.uuid4()
    await jobs.sql(
        "WITH a AS (INSERT INTO proving.plain_jobs (id) VALUES (%s)) INSERT INTO proving.keyed_jobs (id) VALUES (%s)",
        id_, id_,
    )  # fmt: skip

    async with jobs.database.kernel() as conn:
        assert await read_all(conn, limit=1) == [(id_, 1), (id_, 1)]


async def test_a_position_of_another_database_is_refused(jobs):
    """A backup that was restored counts its transactions anew: without the refusal the stream would be silent."""
    async with jobs.database.kernel() as conn:
        far = FeedPosition((await find_horizon(conn)).transaction_id + 1_000_000)

        with pytest.raises(ForeignPosition, match="begin the stream anew"):
            await read_feed(conn, far, limit=1)


NIL = "0" * 32


@pytest.mark.parametrize(
    "text",
    [
        *("", "1", "1.2.3.s", f"-1.{NIL}.1.s", f"1.{NIL}.-1.s", f"\u0661.{NIL}.1.s", f"{2**63}.{NIL}.1.s"),
        *(f"1.{NIL}.1.{'s' * 101}", f"01.{NIL}.1.s", f"1.{NIL}.{2**31}.s", f"1.{NIL}.1.\0"),
    ],
)
def test_what_is_no_position_is_refused(text):
    """One line names the field."""
    with pytest.raises(Refusal, match="after must be the id of an event of a stream"):
        FeedPosition.parse(text)


def test_a_position_survives_its_text():
    """It is the id of an event."""
    position = FeedPosition(2**60, uuid.uuid4(), 2_000_000_000, PLAIN)

    assert FeedPosition.parse(str(position)) == position


async def test_the_stream_is_read_along_its_index(jobs):
    """Whatever the statistics say: a reader that is far behind must not sort everything after its position."""
    sql = feed_module._feed_sql(stages=False, owner=False, about=None)
    values = {"transaction_id": 5, "job_id": uuid.uuid4(), "version_to": 1, "stage": "s", "rows": 10, "limit": 10}
    async with jobs.database.kernel() as conn:
        plan = "\n".join(row[0] for row in await (await conn.execute(f"EXPLAIN {sql}".encode(), values)).fetchall())

    assert re.search(r"Index Scan using ix_transitions_\w+transaction_id", plan), plan
    assert "Seq Scan" not in plan
