"""Enqueue inserts rows in the caller's transaction: for every session, number of jobs, door and duplicate."""

import asyncio
import uuid
from datetime import UTC, datetime

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from gristmill_testing.waiting import until
from tests.conftest import sqlalchemy_url
from tests.support.kernel import PLAIN, Jobs
from workers.runtime.enqueue import ROWS_PER_STATEMENT, Enqueued, EnqueueError, enqueue, enqueue_many

SCORE = "scoring.score"


async def profile(jobs: Jobs) -> uuid.UUID:
    [row] = await jobs.sql("INSERT INTO scoring.profiles (name) VALUES ('Ada') RETURNING id")
    return uuid.UUID(str(row["id"]))


@pytest.fixture
def sync_session(database_url):
    """An ordinary session of a service that knows no asyncio."""
    engine = create_engine(sqlalchemy_url(database_url), poolclass=NullPool)
    with Session(engine) as session:
        yield session
    engine.dispose()


async def test_an_async_session_enqueues_in_its_own_transaction(jobs):
    """The row exists after the commit, with the given values."""
    due = datetime(2999, 1, 1, tzinfo=UTC)

    async with jobs.database.session() as session:
        job = await enqueue(session, PLAIN, {"act": "fail", "key": "k"}, priority=2, due_at=due, idempotency_key="a")
        assert await jobs.count() == 0

    row = await jobs.row(job.id)
    assert job.created
    assert (row["act"], row["key"], row["priority"], row["due_at"]) == ("fail", "k", 2, due)
    assert (row["status"], row["version"], row["idempotency_key"]) == ("pending", 1, "a")
    assert await jobs.actions(job.id) == ["enqueue"]


async def test_a_due_time_without_an_offset_is_utc_whatever_the_session_says(jobs):
    """The session of a service may have any time zone: the same payload always means the same moment."""
    async with jobs.database.session() as session:
        await session.execute(text("SET LOCAL TIME ZONE 'Asia/Tokyo'"))
        one = await enqueue(session, PLAIN, {}, due_at=datetime(2999, 1, 1))  # noqa: DTZ001 - the scenario
        [many] = await enqueue_many(session, PLAIN, [{"due_at": "2999-01-01T00:00:00"}])

    for job in (one, many):
        assert (await jobs.row(job.id))["due_at"] == datetime(2999, 1, 1, tzinfo=UTC)


async def test_a_sync_session_enqueues_the_same(jobs, sync_session):
    """The result is the same with and without asyncio."""
    with sync_session.begin():
        job = enqueue(sync_session, PLAIN, {"act": "fail"})
        several = enqueue_many(sync_session, PLAIN, [{}, {}])

    assert (await jobs.row(job.id))["act"] == "fail"
    assert await jobs.count() == 1 + len(several)


async def test_a_callers_rollback_leaves_nothing(jobs, sync_session):
    """There is no row and no history."""
    job = enqueue(sync_session, PLAIN, {})
    sync_session.rollback()

    assert await jobs.count() == 0
    assert await jobs.history(job.id) == []


async def test_a_job_and_the_callers_own_rows_commit_together(jobs):
    """The profile and the job that scores it are committed together or not at all."""
    async with jobs.database.session() as session:
        added = await session.scalar(text("INSERT INTO scoring.profiles (name) VALUES ('Ada') RETURNING id"))
        await enqueue(session, SCORE, {"profile_id": added, "prompt": "Judge."})
        await session.rollback()

    assert await jobs.sql("SELECT 1 FROM scoring.profiles UNION ALL SELECT 1 FROM scoring.scoring_jobs") == []


async def test_many_jobs_come_back_in_their_order(jobs):
    """The results are in the order of the requests, across several statements."""
    asked = [{"seconds": float(n), "priority": 1 + n % 10} for n in range(ROWS_PER_STATEMENT + 50)]

    async with jobs.database.session() as session:
        done = await enqueue_many(session, PLAIN, asked)

    rows = {row["id"]: row["seconds"] for row in await jobs.sql("SELECT id, seconds FROM proving.plain_jobs")}
    assert [rows[job.id] for job in done] == [job["seconds"] for job in asked]
    [counted] = await jobs.sql("SELECT count(*) AS n FROM runtime.transitions")
    assert counted["n"] == len(asked)


async def test_jobs_of_one_batch_may_differ_in_what_they_say(jobs):
    """Missing options and fields get the stage's defaults, not the values of another job."""
    async with jobs.database.session() as session:
        one, other = await enqueue_many(session, PLAIN, [{"key": "k", "priority": 1}, {"act": "fail"}])

    first, second = await jobs.row(one.id), await jobs.row(other.id)
    assert (first["key"], first["priority"], first["act"]) == ("k", 1, "complete")
    assert (second["key"], second["priority"], second["act"]) == ("", 5, "fail")


async def test_a_repeated_key_returns_the_first_job(jobs):
    """A repeat adds and changes nothing."""
    async with jobs.database.session() as session:
        first = await enqueue(session, PLAIN, {"act": "complete"}, idempotency_key="same")
    async with jobs.database.session() as session:
        again = await enqueue(session, PLAIN, {"act": "complete"}, idempotency_key="same", priority=1)

    assert (again.id, first.created, again.created) == (first.id, True, False)
    assert (await jobs.row(first.id))["act"] == "complete"


async def test_a_key_repeated_inside_one_batch_is_one_job(jobs):
    """All of them return the first job."""
    async with jobs.database.session() as session:
        done = await enqueue_many(
            session, PLAIN, [{"act": "complete", "idempotency_key": "same", "priority": n} for n in (1, 2, 3)]
        )

    assert len({job.id for job in done}) == 1
    assert [job.created for job in done] == [True, False, False]
    assert (await jobs.row(done[0].id))["act"] == "complete"


@pytest.mark.parametrize("later", [False, True])
async def test_a_key_with_another_payload_is_refused_naming_what_differs(jobs, later):
    """The error names the field, not its content. Options may differ. This holds in one batch and later."""
    both = [
        {"act": "complete", "key": "a", "idempotency_key": "same"},
        {"act": "fail", "key": "b", "idempotency_key": "same"},
    ]
    async with jobs.database.session() as session:
        if later:
            await enqueue_many(session, PLAIN, both[:1])
        with pytest.raises(
            EnqueueError, match=r"^idempotency_key is taken by a job with another act, key, got 'same'$"
        ):
            await enqueue_many(session, PLAIN, both[1:] if later else both)
        await session.rollback()

    assert await jobs.count() == 0


async def test_owners_never_meet_in_a_key(jobs):
    """Keys belong to an owner: the same key of another owner makes a new job and reveals nothing of the first."""
    one, other = uuid.uuid4(), uuid.uuid4()
    for user in (one, other):
        await jobs.sql("INSERT INTO scoring.profiles (id, owner_id, name) VALUES (%s, %s, 'Ada')", user, user)

    async def put(user):
        async with jobs.database.session() as session:
            await session.execute(text("SET LOCAL ROLE gristmill_service"))
            await session.execute(text("SELECT set_config('gristmill.user_id', :id, true)"), {"id": str(user)})
            return await enqueue(session, SCORE, {"profile_id": user, "prompt": "Judge."}, idempotency_key="k")

    first, second, again = await put(one), await put(other), await put(one)

    assert (first.created, second.created, again) == (True, True, Enqueued(first.id, created=False))
    owners = await jobs.sql("SELECT id, owner_id FROM scoring.scoring_jobs")
    assert {row["id"]: row["owner_id"] for row in owners} == {first.id: one, second.id: other}


async def test_keyed_and_unkeyed_jobs_of_a_service_come_back_in_their_order(jobs):
    """Although a service gives no ids, and keyed jobs are inserted in the order of their keys."""
    user = uuid.uuid4()
    await jobs.sql("INSERT INTO scoring.profiles (id, owner_id, name) VALUES (%s, %s, 'Ada')", user, user)
    asked = [
        {"profile_id": user, "prompt": f"Judge {n}.", **({"idempotency_key": key} if key.isalpha() else {})}
        for n, key in enumerate("c a_b_d")
    ]
    async with jobs.database.session() as session:
        await session.execute(text("SET LOCAL ROLE gristmill_service"))
        await session.execute(text("SELECT set_config('gristmill.user_id', :id, true)"), {"id": str(user)})
        await enqueue_many(session, SCORE, asked[2:3])
        done = await enqueue_many(session, SCORE, asked)

    prompts = {row["id"]: row["prompt"] for row in await jobs.sql("SELECT id, prompt FROM scoring.scoring_jobs")}
    assert [prompts[job.id] for job in done] == [job["prompt"] for job in asked]
    assert [job.created for job in done] == [True, True, False, True, True, True, True]


async def test_jobs_without_a_key_are_never_the_same(jobs):
    """Only a key identifies a repeat."""
    ids = await jobs.ready(count=3)

    assert len(set(ids)) == 3


async def test_of_two_twins_at_the_same_moment_one_is_the_job(jobs):
    """The second session waits for the commit of the first and returns its job; its own transaction goes on."""
    async with jobs.database.session() as one, jobs.database.session() as other:
        first = await enqueue(one, PLAIN, {}, idempotency_key="same")
        twin = asyncio.ensure_future(enqueue(other, PLAIN, {}, idempotency_key="same"))
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        await until(lambda: jobs.sql(waiting))
        await one.commit()
        second = await twin
        own = await enqueue(other, PLAIN, {})

    assert (second.id, second.created) == (first.id, False)
    assert await jobs.count() == 2
    assert own.created


async def test_of_two_twins_the_second_is_the_job_when_the_first_rolls_back(jobs):
    """An uncommitted job is never returned."""
    async with jobs.database.session() as other:
        async with jobs.database.session() as one:
            first = await enqueue(one, PLAIN, {}, idempotency_key="same")
            twin = asyncio.ensure_future(enqueue(other, PLAIN, {}, idempotency_key="same"))
            await until(lambda: jobs.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
            await one.rollback()
        second = await twin

    assert second.created
    assert second.id != first.id


async def test_a_hundred_callers_with_one_key_make_one_job(jobs):
    """All hundred get the same id."""

    async def call() -> object:
        async with jobs.database.session() as session:
            job = await enqueue(session, PLAIN, {}, idempotency_key="same")
        return job.id

    ids = await asyncio.gather(*(call() for _ in range(100)))

    assert len(set(ids)) == 1
    assert await jobs.actions(ids[0]) == ["enqueue"]


async def test_two_batches_that_name_the_same_keys_in_other_orders_both_succeed(jobs):
    """There is no deadlock and no lost result."""
    keys = [f"key {n}" for n in range(200)]

    async def call(ordered: list[str]) -> dict[str, uuid.UUID]:
        async with jobs.database.session() as session:
            done = await enqueue_many(session, PLAIN, [{"idempotency_key": key} for key in ordered])
        return {key: job.id for key, job in zip(ordered, done, strict=True)}

    one, other = await asyncio.gather(call(keys), call(keys[::-1]))

    assert one == other
    assert await jobs.count() == len(keys)


async def test_a_reference_to_nothing_is_one_line_that_names_it(jobs):
    """The line names the column, the value and the table; it shows no statement and no parameters."""
    missing = uuid.uuid4()

    with pytest.raises(EnqueueError) as caught:
        async with jobs.database.session() as session:
            await enqueue(session, SCORE, {"profile_id": missing, "prompt": "a private prompt"})

    assert str(caught.value) == f'Key (profile_id)=({missing}) is not present in table "profiles"'
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"act": "x" * 21}, r"value too long for type character varying\(20\)"),
        ({"key": "a\x00b"}, r"key must not contain a NUL character, which Postgres cannot store, got 'a\\x00b'"),
    ],
)
async def test_what_only_the_database_can_refuse_is_one_line_too(jobs, payload, said):
    """The line has no traceback, no statement and no payload."""
    with pytest.raises(EnqueueError, match=f"^{said}$"):
        async with jobs.database.session() as session:
            await enqueue(session, PLAIN, payload)


async def test_a_refused_job_leaves_the_callers_savepoint_to_the_caller(jobs):
    """Like after any failed statement: with a savepoint around it, the transaction goes on."""
    async with jobs.database.session() as session:
        with pytest.raises(EnqueueError):
            async with session.begin_nested():
                await enqueue(session, PLAIN, {"act": "x" * 21})
        await enqueue(session, PLAIN, {})

    assert await jobs.count() == 1


async def test_one_refused_job_refuses_its_batch(jobs):
    """All jobs of a batch are enqueued, or none."""
    with pytest.raises(EnqueueError):
        async with jobs.database.session() as session:
            await enqueue_many(session, PLAIN, [{}, {"act": "x" * 21}, {}])

    assert await jobs.count() == 0


async def test_the_sql_door_is_the_same_door(jobs, psql):
    """A service enqueues in its own SQL transaction; a repeated key returns the first job."""
    who = await profile(jobs)
    call = "SELECT scoring.enqueue_score(%s, 'Judge.', p_priority => 2, p_idempotency_key => 'same') AS id"

    first, again = psql.execute(call, [who]).fetchone(), psql.execute(call, [who]).fetchone()

    row = await jobs.row(first["id"], SCORE)
    assert first == again
    assert (row["status"], row["version"], row["priority"], row["model_name"]) == ("pending", 1, 2, "gpt-3.5-turbo")
    assert await jobs.actions(first["id"]) == ["enqueue"]


async def test_the_sql_door_is_part_of_its_transaction(jobs, psql):
    """A rollback takes the job with it."""
    who = await profile(jobs)
    with psql.transaction(force_rollback=True):
        psql.execute("SELECT scoring.enqueue_score(%s, 'Judge.')", [who])

    assert await jobs.count(SCORE) == 0


async def test_twins_at_the_sql_door_are_one_job(jobs, database_url):
    """The second waits for the first's commit."""
    who = await profile(jobs)
    call = "SELECT scoring.enqueue_score(%s, 'Judge.', p_idempotency_key => 'same')"

    async def knock(conn: psycopg.AsyncConnection[tuple[uuid.UUID]]) -> uuid.UUID:
        row = await (await conn.execute(call, [who])).fetchone()
        assert row is not None
        return row[0]

    first, second = await jobs.race(knock, knock)

    assert first == second
    assert await jobs.count(SCORE) == 1


@pytest.mark.parametrize("prompt", ["", "   "])
async def test_the_sql_door_refuses_what_python_refuses(jobs, psql, prompt):
    """A CHECK that names the column refuses it."""
    who = await profile(jobs)

    with pytest.raises(psycopg.errors.CheckViolation, match="ck_scoring_jobs_prompt"):
        psql.execute("SELECT scoring.enqueue_score(%s, %s)", [who, prompt])


async def test_jobs_enqueued_in_the_same_moment_keep_their_order(jobs):
    """Ids are time-ordered: a list shows the jobs of a batch in their order."""
    ids = await jobs.ready(count=50)

    assert ids == sorted(ids)


async def test_a_session_that_rolls_back_outside_sees_its_own_jobs(session):
    """Domains test against the ``session`` fixture: enqueue works inside its outer transaction, even over a commit."""
    job = await enqueue(session, PLAIN, {"key": "k"})
    await session.commit()

    assert await session.scalar(text("SELECT key FROM proving.plain_jobs WHERE id = :id"), {"id": job.id}) == "k"


async def test_nothing_of_such_a_session_is_ever_seen(session):
    """The previous test left no rows."""
    assert await session.scalar(text("SELECT count(*) FROM proving.plain_jobs")) == 0
