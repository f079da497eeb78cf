"""A notice of an ended job is written with the end, whoever ends the job, and handed out exactly once."""

import uuid
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from gristmill_testing.waiting import until
from migrations.kernel.v4 import JobTable, Step, attach_lifecycle, job_columns
from tests.conftest import sqlalchemy_url
from tests.support.kernel import PLAIN, Jobs, heard
from workers.runtime.handler.outcomes import Complete, Fail, Retry, Snooze
from workers.runtime.store.intervene import cancel
from workers.runtime.store.notices import Taken, take_notices
from workers.runtime.store.processes import report_leader, try_to_lead

URL = "https://service.example/done?token=1"
NOTICES = "SELECT job_id, stage, table_name, status, version, owner_id, callback_url, problem FROM runtime.notices"
# What a domain registers: here it only keeps what it was given.
TAKER = """INSERT INTO told.notices (job_id, version, url) SELECT n.job_id, n.version, n.callback_url
             FROM unnest($1) AS n"""


@pytest.fixture(autouse=True)
def no_takers(psql) -> Iterator[None]:
    """The takers of the domains are set aside: these tests bring their own, or none."""
    own = psql.execute("DELETE FROM runtime.notice_takers RETURNING name, statement").fetchall()
    yield
    psql.execute("DELETE FROM runtime.notice_takers")
    for one in own:
        psql.execute("INSERT INTO runtime.notice_takers VALUES (%(name)s, %(statement)s)", one)


@pytest.fixture
def taker(psql, no_takers) -> Iterator[None]:
    """A taker that keeps each notice, and refuses those of one address."""
    psql.execute("DROP SCHEMA IF EXISTS told CASCADE")
    psql.execute(
        "CREATE SCHEMA told; CREATE TABLE told.notices (job_id uuid, version integer, url text CHECK (url !~ 'bad'))"
    )
    psql.execute("INSERT INTO runtime.notice_takers (name, statement) VALUES ('told', %s)", [TAKER])
    yield
    psql.execute("DELETE FROM runtime.notice_takers WHERE name = 'told'; DROP SCHEMA IF EXISTS told CASCADE")


async def lead(jobs: Jobs, name: str = "one") -> int:
    async with jobs.database.kernel() as conn:
        term = await try_to_lead(conn, name=name)
    assert term is not None
    return term


async def take(jobs: Jobs, term: int, limit: int = 100) -> Taken:
    async with jobs.database.kernel() as conn:
        return await take_notices(conn, term=term, limit=limit)


async def test_a_settled_job_with_a_callback_leaves_one_notice(jobs):
    """With its state, its version and its address; a job without a callback leaves none."""
    [told] = await jobs.running(callback_url=URL)
    [silent] = await jobs.running()

    assert await jobs.settle(told, Complete())
    assert await jobs.settle(silent, Complete())

    [notice] = await jobs.sql(NOTICES)
    assert notice == {
        "job_id": told.id,
        "stage": PLAIN,
        "table_name": "proving.plain_jobs",
        "status": "completed",
        "version": 3,
        "owner_id": None,
        "callback_url": URL,
        "problem": None,
    }


@pytest.mark.parametrize("outcome", [Retry("again"), Snooze(timedelta(days=1), "later")])
async def test_a_job_that_goes_on_leaves_no_notice(jobs, outcome):
    """Only an end is told."""
    [job] = await jobs.running(callback_url=URL)

    assert await jobs.settle(job, outcome)

    assert await jobs.sql(NOTICES) == []


async def test_whoever_ends_the_job_leaves_the_notice(jobs, psql):
    """A cancel, a failure and a person in psql, each in the transaction of the end."""
    ready, failing, running = [(await jobs.running(callback_url=URL))[0] for _ in range(3)]
    async with jobs.database.kernel() as conn:
        await cancel(conn, type(ready), [ready.id], reason="no more")
    await jobs.settle(failing, Fail("no"))
    with psql.transaction(force_rollback=True):
        psql.execute(
            "UPDATE proving.plain_jobs SET status = 'cancelled', version = version + 1, completed_at = now() "
            "WHERE id = %s",
            [running.id],
        )
        assert len(psql.execute(NOTICES).fetchall()) == 3

    assert {row["status"] for row in await jobs.sql(NOTICES)} == {"cancelled", "failed"}


@pytest.mark.parametrize(
    ("interest", "is_told"),
    [
        ({"every_owner": True}, True),
        ({"every_owner": True, "stages": [PLAIN, "other.stage"]}, True),
        ({"every_owner": True, "stages": ["other.stage"]}, False),
        ({"owner_id": "owner"}, True),
        ({"owner_id": "owner", "stages": ["other.stage"]}, False),
        ({"owner_id": "stranger"}, False),
        ({}, False),  # the jobs of nobody
    ],
)
async def test_an_interest_matches_by_owner_and_stage(jobs, psql, interest, is_told):
    """A standing interest needs no callback at the job."""
    ids = {"owner": uuid.uuid4(), "stranger": uuid.uuid4()}
    with psql.transaction():
        psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(ids["owner"])])
        psql.execute("INSERT INTO proving.plain_jobs DEFAULT VALUES")
    psql.execute(
        "INSERT INTO runtime.notice_interests (owner_id, every_owner, stages) VALUES (%s, %s, %s)",
        [ids.get(interest.get("owner_id", "")), interest.get("every_owner", False), interest.get("stages")],
    )

    psql.execute("UPDATE proving.plain_jobs SET status = 'cancelled', version = version + 1, completed_at = now()")

    assert len(await jobs.sql(NOTICES)) == int(is_told)


async def test_an_interest_in_the_jobs_of_nobody_is_in_no_others(jobs, psql):
    """Operators' jobs have no owner."""
    psql.execute("INSERT INTO runtime.notice_interests DEFAULT VALUES")
    [job] = await jobs.running()

    await jobs.settle(job, Complete())

    assert [row["job_id"] for row in await jobs.sql(NOTICES)] == [job.id]


def test_a_table_that_gives_no_notices_leaves_none(fresh_database_url):
    """The deliveries of notices must not be told of themselves."""
    silent = JobTable(
        schema="proving", table="silent_jobs", steps=[Step(stage="proving.silent", ready="a", running="b", done="c")]
    )
    engine = create_engine(sqlalchemy_url(fresh_database_url), poolclass=NullPool)
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)) as op:
        op.create_table("silent_jobs", *job_columns(silent), schema="proving")
        attach_lifecycle(silent, notices=False)
    engine.dispose()

    with psycopg.connect(fresh_database_url, autocommit=True) as psql:
        psql.execute("INSERT INTO runtime.notice_interests (every_owner) VALUES (true)")
        for table in ("proving.silent_jobs", "proving.plain_jobs"):
            psql.execute(f"INSERT INTO {table} (callback_url) VALUES (%s)", [URL])
            psql.execute(f"UPDATE {table} SET status = 'cancelled', version = version + 1, completed_at = now()")
        found = psql.execute("SELECT table_name FROM runtime.notices").fetchall()

    assert found == [("proving.plain_jobs",)]


async def test_each_taker_gets_each_notice_once(jobs, taker):
    """Taken notices are gone, in the transaction of what the taker wrote."""
    told = [(await jobs.running(callback_url=URL))[0] for _ in range(5)]
    for job in told:
        await jobs.settle(job, Complete())
    term = await lead(jobs)

    assert await take(jobs, term, limit=3) == Taken(3, 0)
    assert await take(jobs, term) == Taken(2, 0)
    assert await take(jobs, term) == Taken(0, 0)

    rows = await jobs.sql("SELECT job_id, version, url FROM told.notices")
    assert sorted(row["job_id"] for row in rows) == sorted(job.id for job in told)
    assert {(row["version"], row["url"]) for row in rows} == {(3, URL)}
    assert await jobs.sql(NOTICES) == []


async def test_a_leader_of_the_past_takes_nothing(jobs, taker):
    """The term fences it."""
    [job] = await jobs.running(callback_url=URL)
    await jobs.settle(job, Complete())
    term = await lead(jobs)

    assert await take(jobs, term - 1) == Taken(0, 0)

    assert len(await jobs.sql(NOTICES)) == 1


async def test_without_a_taker_notices_wait(jobs):
    """A domain that takes them may be installed later."""
    [job] = await jobs.running(callback_url=URL)
    await jobs.settle(job, Complete())

    assert await take(jobs, await lead(jobs)) == Taken(0, 0)

    assert len(await jobs.sql(NOTICES)) == 1


async def test_a_notice_that_a_taker_refuses_stays_with_the_reason(jobs, taker):
    """The others go on, and it is not handed out again."""
    for url in (URL, "https://bad.example", URL):
        [job] = await jobs.running(callback_url=url)
        await jobs.settle(job, Complete())
    term = await lead(jobs)

    assert await take(jobs, term) == Taken(2, 1)
    assert await take(jobs, term) == Taken(0, 0)

    [left] = await jobs.sql(NOTICES)
    assert "violates check constraint" in left["problem"]
    assert len(await jobs.sql("SELECT 1 FROM told.notices")) == 2


async def test_a_broken_taker_keeps_every_notice(jobs, taker, psql):
    """An error of its statement is nobody's notice's fault."""
    [job] = await jobs.running(callback_url=URL)
    await jobs.settle(job, Complete())
    psql.execute("DROP TABLE told.notices")
    term = await lead(jobs)

    with pytest.raises(psycopg.errors.UndefinedTable):
        await take(jobs, term)

    assert [row["problem"] for row in await jobs.sql(NOTICES)] == [None]


async def test_a_leader_that_dies_in_between_takes_nothing(jobs, taker, database_url):
    """Before its commit everything is undone; the next leader hands the notice out once."""
    [job] = await jobs.running(callback_url=URL)
    await jobs.settle(job, Complete())
    term = await lead(jobs)
    dying = await psycopg.AsyncConnection.connect(database_url)
    assert await take_notices(dying, term=term, limit=10) == Taken(1, 0)
    await jobs.sql("SELECT pg_terminate_backend(%s, 5000)", dying.info.backend_pid)
    await dying.close()

    assert len(await jobs.sql(NOTICES)) == 1
    assert await take(jobs, term) == Taken(1, 0)
    assert len(await jobs.sql("SELECT 1 FROM told.notices")) == 1


async def test_two_leaders_hand_each_notice_out_once(jobs, taker, start_dispatcher):
    """One leads after the other, while jobs end."""
    first = await start_dispatcher(name="one")
    await start_dispatcher(name="two")
    told = await jobs.ready(count=30, callback_url=URL)
    for nth, job_id in enumerate(told):
        if nth == 15:
            await jobs.sql("SELECT pg_terminate_backend(session_pid) FROM runtime.dispatcher")
        async with jobs.database.kernel() as conn:
            await cancel(conn, jobs.registry[PLAIN].model, [job_id], reason="end")

    await until(lambda: _is_told(jobs, 30))

    rows = await jobs.sql("SELECT job_id FROM told.notices")
    assert sorted(row["job_id"] for row in rows) == sorted(told)
    assert first is not None


async def _is_told(jobs: Jobs, count: int) -> bool:
    return len(await jobs.sql("SELECT 1 FROM told.notices")) >= count


async def test_an_idle_leader_is_woken_by_a_notice(jobs, database_url):
    """A busy one polls."""
    [job, other] = await jobs.running(count=2, callback_url=URL)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as listener:
        await listener.execute("LISTEN gristmill_notice")
        term = await lead(jobs)
        async with jobs.database.kernel() as conn:
            await report_leader(conn, term, listening=True)
        await jobs.settle(job, Complete())
        assert await heard(listener) == [("gristmill_notice", "")]

        async with jobs.database.kernel() as conn:
            await report_leader(conn, term, listening=False)
        await jobs.settle(other, Complete())
        assert await heard(listener) == []


@pytest.mark.parametrize(
    "url", ["", "ftp://service.example", "https://", "https://a b", "https://a\nb", "https://" + "a" * 2048]
)
def test_what_is_no_address_is_refused_by_the_database(psql, url):
    """At every door, also in psql."""
    with pytest.raises(psycopg.errors.CheckViolation):
        psql.execute("INSERT INTO proving.plain_jobs (callback_url) VALUES (%s)", [url])
