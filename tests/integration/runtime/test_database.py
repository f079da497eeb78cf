"""The pools: the names of sessions, the pinned settings, the commits."""

import asyncio

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from gristmill_testing.waiting import until
from workers.runtime.database import Database, is_database_away, is_unreachable


async def show(conn, setting: str) -> str:
    [(value,)] = await (await conn.execute(f"SHOW {setting}".encode())).fetchall()
    return str(value)


@pytest.mark.parametrize("name", ["worker:1", "cli:Ada Lovelace", r"cli:AD\ada"])
async def test_every_connection_says_who_it_is(database_url, name):
    """A name with blanks and backslashes must not break the connection's options."""
    database = Database(database_url, changed_by=name)

    async with database.kernel() as conn, database.session() as session, await database.listen() as alone:
        said = [await show(conn, "gristmill.changed_by"), await show(alone, "gristmill.changed_by")]
        said.append(str(await session.scalar(text("SHOW gristmill.changed_by"))))
    await database.close()

    assert said == [name] * 3


async def test_the_kernels_connections_read_no_whole_tables_and_others_may(database):
    """Handlers plan as everybody does; nobody waits for a lock for ever, the kernel no longer than a second.

    Nor does it hold one, should its process freeze within a transaction, or its machine vanish.
    """
    async with database.kernel() as conn, await database.listen() as alone, database.session() as session:
        assert [await show(conn, f"enable_{plan}") for plan in ("seqscan", "bitmapscan", "mergejoin")] == ["off"] * 3
        assert await show(conn, "plan_cache_mode") == "force_custom_plan"
        assert [await show(conn, "lock_timeout"), await show(alone, "lock_timeout")] == ["1s", "10s"]
        assert await show(conn, "idle_in_transaction_session_timeout") == "10s"
        assert [await show(one, "tcp_keepalives_idle") for one in (conn, alone)] == ["10", "10"]
        assert await show(alone, "enable_seqscan") == "on"
        assert await session.scalar(text("SHOW enable_seqscan")) == "on"


async def test_a_handlers_session_is_ended_after_its_silence_where_one_is_named(database_url):
    """A worker sets this limit; processes with people do not."""
    patient = Database(database_url, changed_by="cli")
    worker = Database(database_url, changed_by="worker", idle_seconds=0.2)

    async with patient.session() as session:
        assert await session.scalar(text("SHOW idle_in_transaction_session_timeout")) == "0"
    with pytest.raises(DBAPIError) as ended:
        await be_silent_within_a_transaction(worker)
    async with worker.session() as session:
        assert await session.scalar(text("SELECT 1")) == 1
    await patient.close()
    await worker.close()

    assert is_database_away(ended.value)
    assert not is_unreachable(ended.value)


async def be_silent_within_a_transaction(database: Database) -> None:
    async with database.session() as session:
        await session.execute(text("SELECT 1"))
        await asyncio.sleep(0.5)
        await session.execute(text("SELECT 1"))


async def test_a_kernel_statement_commits_by_itself(database, psql):
    """No transaction stays open."""
    async with database.kernel() as conn:
        await conn.execute("INSERT INTO proving.plain_jobs DEFAULT VALUES")

        assert psql.execute("SELECT count(*) AS n FROM proving.plain_jobs").fetchone() == {"n": 1}


async def test_a_kernel_transaction_is_one_for_both_views(database, psql):
    """Changes by the session and by the connection commit together, at the end of the block."""
    async with database.kernel_transaction() as (conn, session):
        await conn.execute("INSERT INTO proving.plain_jobs DEFAULT VALUES")
        await session.execute(text("INSERT INTO proving.plain_jobs DEFAULT VALUES"))
        assert psql.execute("SELECT count(*) AS n FROM proving.plain_jobs").fetchone() == {"n": 0}

    assert psql.execute("SELECT count(*) AS n FROM proving.plain_jobs").fetchone() == {"n": 2}


async def test_an_error_rolls_both_views_back_and_the_next_statement_commits_again(database, psql):
    """The connection returns to its pool in its original state."""
    with pytest.raises(RuntimeError, match="no"):
        await fail_inside_a_transaction(database)
    async with database.kernel() as conn:
        await conn.execute("INSERT INTO proving.plain_jobs DEFAULT VALUES")

    assert psql.execute("SELECT count(*) AS n FROM proving.plain_jobs").fetchone() == {"n": 1}


async def fail_inside_a_transaction(database: Database) -> None:
    async with database.kernel_transaction() as (conn, session):
        await conn.execute("INSERT INTO proving.plain_jobs DEFAULT VALUES")
        await session.execute(text("INSERT INTO proving.plain_jobs DEFAULT VALUES"))
        raise RuntimeError("no")


async def test_a_pool_whose_connections_were_ended_serves_again(database, psql):
    """After one error the pool opens new connections, without a restart."""
    async with database.kernel() as one, database.kernel() as other:
        await one.execute("SELECT 1")
        await other.execute("SELECT 1")
    psql.execute(
        "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    async def served() -> bool:
        try:
            async with database.kernel() as conn:
                await conn.execute("SELECT 1")
        except Exception:  # noqa: BLE001 - a broken connection, found by its first use
            return False
        return True

    await until(served, within=3)
    assert await served()


async def test_a_connection_that_was_out_while_another_broke_is_closed_in_the_end(database_url, psql):
    """No connection stays open in a replaced pool."""
    database = Database(database_url, changed_by="test")
    async with database.kernel() as held:
        await held.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            await use_a_broken_connection(database, psql)
    async with database.kernel() as fresh:
        await fresh.execute("SELECT 1")
    await database.close()

    assert held.closed


async def use_a_broken_connection(database: Database, psql: "psycopg.Connection[dict[str, object]]") -> None:
    async with database.kernel() as conn:
        psql.execute("SELECT pg_terminate_backend(%s, 2000)", [conn.info.backend_pid])
        await conn.execute("SELECT 1")
