"""``gristmill_client.sql.aio``: the same over psycopg's AsyncConnection and SQLAlchemy's async classes."""

import asyncio
import uuid
from contextlib import asynccontextmanager

import psycopg
import pytest
from gristmill_client import NotPossible, Refused
from gristmill_client.sql import aio
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

SCORE = "scoring.score"


def engine_of(url):
    return create_async_engine(
        "postgresql+psycopg://", connect_args=psycopg.conninfo.conninfo_to_dict(url), poolclass=NullPool
    )


@asynccontextmanager
async def by_psycopg(url):
    async with await psycopg.AsyncConnection.connect(url) as connection:
        yield connection


@asynccontextmanager
async def by_session(url):
    async with AsyncSession(engine_of(url)) as session, session.begin():
        yield session


@asynccontextmanager
async def by_connection(url):
    async with engine_of(url).connect() as connection, connection.begin():
        yield connection


@pytest.mark.parametrize("way", [by_psycopg, by_session, by_connection], ids=lambda way: way.__name__)
def test_every_function(way, service_url, admin, user, profile):
    """In the caller's transaction, which goes on after a refusal."""

    async def scenario():
        payload = {"profile_id": profile, "prompt": "Judge."}
        async with way(service_url) as connection:
            await aio.act_for(connection, user)
            job = await aio.enqueue(connection, SCORE, payload, idempotency_key="k")
            with pytest.raises(Refused, match=r"^prompt is required, got nothing$"):
                await aio.enqueue(connection, SCORE, {"profile_id": profile})
            [again, other] = await aio.enqueue_many(
                connection, SCORE, [{"payload": payload, "idempotency_key": "k"}, {"payload": payload}]
            )
            assert await aio.cancel(connection, other.id)
            assert await aio.result(connection, job.id) is None
            seen = await aio.status(connection, other.id)
            assert admin.execute("SELECT 1 FROM runtime.jobs WHERE id = %s", [job.id]).fetchall() == []
            with pytest.raises(NotPossible, match=r"^wait "):
                await aio.wait(connection, job.id)
        assert (again.id, again.created, other.created, seen.outcome) == (job.id, False, True, "cancelled")
        return job.id

    job = asyncio.run(scenario())
    assert admin.execute("SELECT owner_id FROM runtime.jobs WHERE id = %s", [job]).fetchone() == (user,)


@pytest.mark.parametrize("kind", ["connection", "engine"])
def test_wait_returns_when_the_job_has_ended(kind, service_url, admin, user, profile):
    """Or when the time is up."""

    async def scenario():
        async with by_psycopg(service_url) as connection:
            await aio.act_for(connection, user)
            job = (await aio.enqueue(connection, SCORE, {"profile_id": profile, "prompt": "Judge."})).id
        own = await psycopg.AsyncConnection.connect(service_url, autocommit=True)
        waiter = own if kind == "connection" else engine_of(service_url)
        assert (await aio.wait(waiter, job, timeout=0.05, user_id=user)).outcome is None
        waiting = asyncio.ensure_future(aio.wait(waiter, job, timeout=60, user_id=user))
        await asyncio.sleep(0)
        admin.execute("SELECT runtime.cancel(%s)", [job])
        done = await asyncio.wait_for(waiting, 30)
        with pytest.raises(Refused):
            await aio.wait(waiter, uuid.uuid4(), timeout=1, user_id=user)
        await own.close()
        return done

    assert asyncio.run(scenario()).outcome == "cancelled"
