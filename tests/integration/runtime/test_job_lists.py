"""The list of jobs: pages without gaps, what a tenant sees, and no filter that reads a whole table."""

import random
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.conftest import create_database, drop_database
from tests.support.kernel import PLAIN
from tests.support.many_jobs import FEW, OTHER, OWNER, STAGE, Wanted, fill, wanted
from workers.runtime.cursors import WrongCursorError
from workers.runtime.database import Database, Raw
from workers.runtime.handler.outcomes import Complete, Fail, Retry, Snooze
from workers.runtime.handler.registry import UnknownStageError
from workers.runtime.operate import lists as use_cases
from workers.runtime.operate.lists import MAX_COUNTED, JobCount, count_jobs, list_page, read_search
from workers.runtime.store.lists import LAST_ID, MAX_READ, JobSearch, page_sql, search_values

ROWS = 20_000
LIMIT = 50


@asynccontextmanager
async def acting_as(
    database: Database, tenant: uuid.UUID | None, role: str = "gristmill_service"
) -> AsyncIterator[Raw]:
    """A transaction of the gateway: in a role, for a tenant."""
    async with database.transaction() as conn:
        await conn.execute("SELECT set_config('role', %s, true)", [role])
        await conn.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(tenant or "")])
        yield conn


async def all_pages(conn: Raw, search: JobSearch, *, limit: int = 7) -> list[uuid.UUID]:
    """Return the ids of every page in order."""
    found: list[uuid.UUID] = []
    cursor: str | None = None
    while True:
        page = await list_page(conn, search, limit=limit, cursor=cursor)
        assert len(page.jobs) <= limit
        found += [job.id for job in page.jobs]
        if (cursor := page.next) is None:
            return found


@pytest.fixture
async def variety(jobs):
    """Jobs of every table in many states."""
    await jobs.ready(count=9)
    await jobs.ready(count=3, due_at="2999-01-01T00:00:00Z")
    done, failed, retried, snoozed, *_ = await jobs.running(count=4)
    await jobs.settle(done, Complete())
    await jobs.settle(failed, Fail("answered 503"))
    await jobs.settle(retried, Retry("answered 503"))
    await jobs.settle(snoozed, Snooze(timedelta(hours=1), "later"))
    [first, other] = await jobs.running("proving.first", count=2)
    await jobs.settle(first, Complete(), "proving.first")
    await jobs.settle(other, Fail("no"), "proving.first")
    [asked] = await jobs.running("proving.ask")
    await jobs.settle(asked, Complete(), "proving.ask")
    await jobs.ready("proving.keyed", count=5)
    await jobs.dispatched("proving.keyed", 0)
    return jobs


CASES: dict[str, tuple[dict[str, str], str]] = {
    "all": ({}, "true"),
    "stage": ({"stage": "proving.plain"}, "stage = 'proving.plain'"),
    "first step": ({"stage": "proving.first"}, "stage = 'proving.first'"),
    "second step": ({"stage": "proving.second"}, "stage = 'proving.second'"),
    "state": ({"state": "failed"}, "status = 'failed'"),
    "group": ({"state": "ended"}, "completed_at IS NOT NULL"),
    "open": ({"state": "open"}, "completed_at IS NULL"),
    "stage and state": ({"stage": "proving.first", "state": "failed"}, "stage = 'proving.first' AND status = 'failed'"),
    "running": ({"state": "running"}, "status IN ('processing', 'asking')"),
    "public name": ({"state": "in review"}, "status = 'awaiting_approval'"),
    "decision": ({"wait": "decision"}, "status = 'awaiting_approval'"),
    "later": ({"wait": "later"}, "due_at > '2900-01-01'"),
    "snoozed": ({"wait": "snoozed"}, "wait_reason LIKE 'snoozed%%'"),
    "backing off": ({"wait": "backing_off"}, "wait_reason LIKE 'backing off%%'"),
    "ready": (
        {"wait": "ready"},
        "due_at IS NULL AND status IN ('pending', 'halfway', 'approved') AND wait_reason NOT LIKE 'dispatched%%'",
    ),
    "dispatched": ({"wait": "dispatched"}, "wait_reason LIKE 'dispatched%%'"),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_filter_finds_what_it_says_page_by_page(variety, case):
    """As the view of all jobs has it, newest first."""
    given, where = CASES[case]
    expected = await variety.sql(f"SELECT id FROM runtime.jobs WHERE {where} ORDER BY id DESC".replace("%%", "%"))

    async with variety.database.kernel() as conn:
        found = await all_pages(conn, read_search(given))
        counted = await count_jobs(conn, read_search(given))

    assert found == [row["id"] for row in expected]
    assert expected
    assert counted == JobCount(len(expected), is_more=False)


async def test_jobs_are_found_by_key_and_by_the_fingerprint_of_their_error(jobs):
    """Also those of an error that differ in a number only."""
    await jobs.ready(count=3)
    one, two, _ = await jobs.running(count=0)
    await jobs.settle(one, Fail("no answer after 17 s"))
    await jobs.settle(two, Retry("no answer after 3 s"))
    await jobs.unguarded("UPDATE proving.plain_jobs SET idempotency_key = 'k 1' WHERE id = %s", one.id)
    [row] = await jobs.sql("SELECT error_fingerprint AS print FROM proving.plain_jobs WHERE id = %s", one.id)

    async with jobs.database.kernel() as conn:
        by_error = await all_pages(conn, read_search({"error": row["print"]}), limit=1)
        by_key = await all_pages(conn, read_search({"key": "k 1"}))
        by_both = await all_pages(conn, read_search({"key": "k 1", "error": row["print"], "state": "failed"}))
        by_none = await all_pages(conn, read_search({"key": "k"}))

    assert set(by_error) == {one.id, two.id}
    assert by_key == by_both == [one.id]
    assert by_none == []


async def test_jobs_are_found_by_the_time_of_their_enqueue(jobs):
    """From is included, to is not; the time is that of the id."""
    old, new = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2))
    for time in (old, new):
        await jobs.sql("INSERT INTO proving.plain_jobs (id) VALUES (uuidv7(%s - clock_timestamp()))", time)
    await jobs.ready()

    async with jobs.database.kernel() as conn:
        until = await all_pages(conn, read_search({"to": new.isoformat()}))
        between = await all_pages(conn, read_search({"from": new.isoformat(), "to": "2026-01-03T00:00:00Z"}))
        since = await all_pages(conn, read_search({"from": "2026-01-02T12:00:00Z"}))

    assert [len(until), len(between), len(since)] == [1, 1, 1]
    assert len({*until, *between, *since}) == 3


async def test_a_page_stays_where_it_is_while_jobs_are_added(jobs):
    """New jobs come on no later page, none of the old ones is missed or shown twice."""
    before = await jobs.ready(count=20)
    seen: list[uuid.UUID] = []
    cursor: str | None = None
    async with jobs.database.kernel() as conn:
        while True:
            page = await list_page(conn, JobSearch(stage=PLAIN), limit=3, cursor=cursor)
            seen += [job.id for job in page.jobs]
            if (cursor := page.next) is None:
                break
            await jobs.ready(count=random.randint(0, 4))

    assert seen == sorted(before, reverse=True)


async def test_a_cursor_belongs_to_its_filter_and_its_caller(jobs):
    """With other filters, or for somebody else, it is refused."""
    await jobs.ready(count=3)
    async with jobs.database.kernel() as conn:
        page = await list_page(conn, JobSearch(stage=PLAIN), limit=1)
        assert page.next is not None

        with pytest.raises(WrongCursorError):
            await list_page(conn, JobSearch(), limit=1, cursor=page.next)
    async with acting_as(jobs.database, OWNER) as conn:
        with pytest.raises(WrongCursorError):
            await list_page(conn, JobSearch(stage=PLAIN), limit=1, cursor=page.next)


async def test_an_unknown_stage_is_refused_by_name(jobs):
    """The line has the known stages."""
    async with jobs.database.kernel() as conn:
        with pytest.raises(
            UnknownStageError, match=r"'proving\.plane' is not registered; known stages: .*proving\.plain"
        ):
            await list_page(conn, JobSearch(stage="proving.plane"))


async def test_a_tenant_lists_its_own_jobs_only(jobs):
    """Whatever it asks for. Who acts for nobody sees nothing, an operator sees all."""
    for owner in (OWNER, OTHER, None):
        await jobs.sql("INSERT INTO proving.plain_jobs (owner_id) SELECT %s FROM generate_series(1, 3)", owner)
        await jobs.sql("INSERT INTO proving.two_step_jobs (owner_id) VALUES (%s)", owner)

    async def seen(tenant: uuid.UUID | None, role: str = "gristmill_service", **search: Any) -> tuple[int, int]:
        async with acting_as(jobs.database, tenant, role) as conn:
            found = await all_pages(conn, JobSearch(**search))
            counted = await count_jobs(conn, JobSearch(**search))
        assert not counted.is_more
        return len(found), counted.jobs

    assert await seen(OWNER) == (4, 4)
    assert await seen(OWNER, stage=PLAIN) == (3, 3)
    assert await seen(OWNER, owner=OWNER, wait="ready") == (4, 4)
    assert await seen(OWNER, owner=OTHER) == (0, 0)
    assert await seen(None) == (0, 0)
    assert await seen(None, "gristmill_operator") == (12, 12)
    assert await seen(None, "gristmill_operator", owner=OTHER) == (4, 4)


async def test_equal_ids_of_two_tables_are_both_listed(jobs):
    """A page does not end between them."""
    await jobs.ready(count=2)
    await jobs.sql("INSERT INTO proving.keyed_jobs (id) SELECT id FROM proving.plain_jobs")

    async with jobs.database.kernel() as conn:
        first = await list_page(conn, JobSearch(), limit=1)
        second = await list_page(conn, JobSearch(), limit=1, cursor=first.next)

    assert {job.stage for job in first.jobs} == {job.stage for job in second.jobs} == {"proving.plain", "proving.keyed"}
    assert second.next is None


# ── many jobs ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def crowded_url(servers, template):
    """A database with many jobs of one table, and the statistics of an empty one."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    url = create_database(servers.urls.database_url, name, template=template)
    yield url
    drop_database(servers.urls.database_url, name)


@pytest.fixture
async def crowded(crowded_url, registry):
    database = Database(crowded_url, changed_by="test")
    async with database.kernel() as conn:
        row = await (await conn.execute("SELECT count(*) FROM proving.plain_jobs")).fetchone()
        if row == (0,):
            await fill(conn, ROWS)
    yield database
    await database.close()


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the nodes that read the job table."""
    if plan.get("Relation Name") == "plain_jobs":
        yield plan
    for child in plan.get("Plans", ()):
        yield from scans(child)


async def explained(conn: Raw, search: JobSearch) -> list[dict[str, Any]]:
    """Return how a page of ``search`` reads the job table."""
    _, walks, search = await use_cases._prepare(conn, search)
    values = search_values(search, before=LAST_ID) | {"limit": LIMIT + 1, "reads": MAX_READ}
    cursor = await conn.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {page_sql(walks)}".encode(), values)
    [([plan],)] = await cursor.fetchall()
    return list(scans(plan["Plan"]))


def rows_read(nodes: list[dict[str, Any]]) -> int:
    return sum((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in nodes)


FILTERS = {one.name: one for one in wanted(ROWS)}


@pytest.mark.parametrize("role", ["gristmill_operator", "gristmill_service"])
@pytest.mark.parametrize("name", FILTERS)
async def test_no_filter_reads_a_whole_table(crowded, name, role):
    """Whatever the statistics say: by its own index, and few more rows than the page has."""
    one: Wanted = FILTERS[name]
    tenant = OWNER if role == "gristmill_service" else None
    async with acting_as(crowded, tenant, role) as conn:
        nodes = await explained(conn, one.search)
        page = await list_page(conn, one.search, limit=LIMIT)

    assert nodes
    assert {node["Node Type"] for node in nodes} <= {"Index Scan", "Index Only Scan"}
    assert rows_read(nodes) <= 4 * FEW * 4 + 3 * LIMIT, [(node["Index Name"], node["Actual Rows"]) for node in nodes]
    assert len(page.jobs) == (LIMIT if one.found < 0 else min(one.found, LIMIT))


async def test_what_has_no_index_is_read_in_bounded_pieces(crowded):
    """A page ends after its share of rows that do not match, and the next one goes on there."""
    search = JobSearch(stage=STAGE, older_than=timedelta(days=1, hours=23, minutes=59))
    async with crowded.kernel() as conn:
        pages, cursor = [], None
        while True:
            page = await list_page(conn, search, limit=LIMIT, cursor=cursor)
            pages.append(len(page.jobs))
            if (cursor := page.next) is None:
                break
        async with conn.transaction():
            assert rows_read(await explained(conn, search)) <= MAX_READ + LIMIT

    assert pages[: ROWS // MAX_READ - 1] == [0] * (ROWS // MAX_READ - 1)
    assert sum(pages) > 0


async def test_counts_are_exact_by_counters_and_else_capped(crowded):
    """An operator's count by stage and state reads no job; others stop at a thousand."""
    async with acting_as(crowded, None, "gristmill_operator") as conn:
        assert await count_jobs(conn, JobSearch(stage=STAGE)) == JobCount(ROWS, is_more=False)
        assert await count_jobs(conn, FILTERS["state failed"].search) == JobCount(FEW, is_more=False)
        others = replace(FILTERS["owner"].search, owner=OTHER)
        assert await count_jobs(conn, others) == JobCount(MAX_COUNTED, is_more=True)
    async with acting_as(crowded, OTHER) as conn:
        assert await count_jobs(conn, JobSearch(stage=STAGE)) == JobCount(MAX_COUNTED, is_more=True)
    async with acting_as(crowded, OWNER) as conn:
        assert await count_jobs(conn, FILTERS["state failed"].search) == JobCount(FEW, is_more=False)


async def test_a_service_cannot_read_the_counters(jobs):
    """They count the jobs of everybody."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with acting_as(jobs.database, OWNER) as conn:
            await conn.execute("SELECT * FROM runtime.counts")
