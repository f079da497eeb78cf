"""A key may be used again after its job failed or was cancelled, if the caller says so: the same rule at every door."""

import asyncio
import uuid

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support.kernel import PLAIN, Jobs
from workers.runtime.enqueue import Enqueued, EnqueueError, enqueue, enqueue_many
from workers.runtime.operate.requests import put_request, read_request

RERUN = "rerun"


async def by_python(jobs: Jobs, payload, **options) -> Enqueued:
    async with jobs.database.session() as session:
        return await enqueue(session, PLAIN, payload, **options)


async def by_python_many(jobs: Jobs, payload, **options) -> Enqueued:
    async with jobs.database.session() as session:
        return (await enqueue_many(session, PLAIN, [{**payload, **options}, {}]))[0]


async def by_sql(jobs: Jobs, payload, **options) -> Enqueued:
    try:
        [row] = await jobs.sql(
            "SELECT id, created FROM runtime.enqueue_many(%s, %s)", PLAIN, Jsonb([{"payload": payload, **options}])
        )
    except psycopg.Error as error:
        raise EnqueueError(str(error.diag.message_primary)) from None
    return Enqueued(row["id"], created=row["created"])


async def by_celery(jobs: Jobs, payload, **options) -> Enqueued:
    asked = read_request([PLAIN, payload], options, message_id=str(uuid.uuid4()))
    async with jobs.database.session() as session:
        return await session.run_sync(lambda sync: put_request(sync, asked))


DOORS = [by_python, by_python_many, by_sql, by_celery]


async def ended(jobs: Jobs, act: str, key: str = "k", stage: str = PLAIN) -> uuid.UUID:
    """Return a job with this key that failed, was cancelled or completed."""
    [id_] = await jobs.ready(stage, act=act, idempotency_key=key)
    if act == "cancel":
        await jobs.sql("SELECT runtime.cancel(%s)", id_)
        return id_
    [job] = await jobs.claim(await jobs.dispatched(stage, count=0), stage)
    from workers.runtime.handler.outcomes import Complete, Fail

    assert await jobs.settle(job, Fail("told to fail") if act == "fail" else Complete(), stage)
    return id_


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("act", ["fail", "cancel"])
async def test_a_rerun_after_a_failed_end_is_a_new_job_with_the_key(jobs: Jobs, door, act):
    """The first job loses its key and nothing else; the history of the new one names it. Its payload may differ."""
    first = await ended(jobs, act)
    before = await jobs.row(first)

    new = await door(jobs, {"act": "complete"}, idempotency_key="k", on_failed=RERUN)

    assert new.created
    assert new.id != first
    assert (await jobs.row(new.id))["idempotency_key"] == "k"
    after = await jobs.row(first)
    assert (after.pop("idempotency_key"), before.pop("idempotency_key")) == (None, "k")
    assert {**after, "updated_at": None} == {**before, "updated_at": None}
    [made] = await jobs.history(new.id)
    assert made.change_reason == f"takes the key of job {first}"


@pytest.mark.parametrize("door", DOORS)
async def test_without_a_word_a_repeat_returns_the_failed_job(jobs: Jobs, door):
    first = await ended(jobs, "fail")

    assert await door(jobs, {"act": "fail"}, idempotency_key="k") == Enqueued(first, created=False)
    assert await door(jobs, {"act": "fail"}, idempotency_key="k", on_failed="return") == Enqueued(first, created=False)
    with pytest.raises(EnqueueError, match="with another act, got 'k'"):
        await door(jobs, {"act": "complete"}, idempotency_key="k")


@pytest.mark.parametrize("door", DOORS)
async def test_a_rerun_of_a_job_that_is_alive_or_completed_is_a_repeat(jobs: Jobs, door):
    """With the same content it returns the job; with other content it is refused."""
    done = await ended(jobs, "complete")
    [alive] = await jobs.ready(act="complete", idempotency_key="alive")

    for id_, key in ((done, "k"), (alive, "alive")):
        again = await door(jobs, {"act": "complete"}, idempotency_key=key, on_failed=RERUN)
        assert again == Enqueued(id_, created=False)
        with pytest.raises(EnqueueError, match="with another act"):
            await door(jobs, {"act": "fail"}, idempotency_key=key, on_failed=RERUN)


@pytest.mark.parametrize("door", DOORS)
async def test_without_a_job_a_rerun_is_the_first(jobs: Jobs, door):
    assert (await door(jobs, {}, idempotency_key="k", on_failed=RERUN)).created


async def test_a_batch_reruns_what_failed_and_repeats_the_rest(jobs: Jobs):
    """In their order; of two equal keys the second is a repeat of the first."""
    failed, done = await ended(jobs, "fail", "failed"), await ended(jobs, "complete", "done")
    asked = [
        {"act": "complete", "idempotency_key": key, "on_failed": RERUN} for key in ("failed", "new", "done", "failed")
    ]

    async with jobs.database.session() as session:
        one, two, three, four = await enqueue_many(session, PLAIN, asked)

    assert [job.created for job in (one, two, three, four)] == [True, True, False, False]
    assert three.id == done
    assert four.id == one.id != failed


@pytest.mark.parametrize("door", DOORS)
async def test_a_rerun_that_is_rolled_back_leaves_the_key(jobs: Jobs, door):
    """Both happen in the caller's transaction, or neither."""
    first = await ended(jobs, "fail")
    async with jobs.database.session() as session:
        new = await enqueue(session, PLAIN, {}, idempotency_key="k", on_failed=RERUN)
        assert new.created
        await session.rollback()

    assert (await jobs.row(first))["idempotency_key"] == "k"
    assert (await door(jobs, {"act": "fail"}, idempotency_key="k")).id == first


async def test_of_many_reruns_at_once_one_makes_the_job(jobs: Jobs):
    """All callers, at all doors, get that job."""
    first = await ended(jobs, "fail")

    done = await asyncio.gather(
        *(door(jobs, {"act": "complete"}, idempotency_key="k", on_failed=RERUN) for door in DOORS * 4)
    )

    assert len({job.id for job in done}) == 1
    assert [job.created for job in done].count(True) == 1
    assert done[0].id != first
    assert await jobs.count(act="complete", idempotency_key="k") == 1


async def test_batches_of_reruns_in_other_orders_do_not_deadlock(jobs: Jobs):
    keys = [f"{n:02}" for n in range(12)]
    for key in keys:
        await ended(jobs, "fail", key)

    async def call(ordered):
        asked = [{"act": "complete", "idempotency_key": key, "on_failed": RERUN} for key in ordered]
        async with jobs.database.session() as session:
            return dict(zip(ordered, await enqueue_many(session, PLAIN, asked), strict=True))

    one, other = await asyncio.gather(call(keys), call(keys[::-1]))

    for key in keys:
        assert one[key].id == other[key].id
        assert one[key].created != other[key].created


@pytest.mark.parametrize("retry_first", [True, False])
async def test_a_retry_and_a_rerun_at_once_leave_one_or_two_live_jobs_and_one_key(jobs: Jobs, retry_first):
    """If the retry comes first, the rerun is a repeat. If the rerun comes first, the retried job has no key."""
    first = await ended(jobs, "fail")

    async def retry(conn):
        return await conn.execute(
            "UPDATE proving.plain_jobs SET status = 'pending', version = version + 1, retry_count = retry_count + 1, "
            "completed_at = NULL WHERE id = %s",
            [first],
        )

    async def rerun(conn):
        cursor = await conn.execute(
            "SELECT id, created FROM runtime.enqueue_many(%s, %s)",
            [PLAIN, Jsonb([{"payload": {"act": "fail"}, "idempotency_key": "k", "on_failed": RERUN}])],
        )
        return await cursor.fetchone()

    if retry_first:
        _, (id_, created) = await jobs.race(retry, rerun)
        assert (id_, created) == (first, False)
    else:
        (id_, created), _ = await jobs.race(rerun, retry)
        assert created
    alive = await jobs.sql("SELECT id, idempotency_key FROM proving.plain_jobs WHERE status = 'pending'")
    assert {row["id"]: row["idempotency_key"] for row in alive} == {first: None, id_: "k"}


@pytest.mark.parametrize(
    ("column", "value"), [("idempotency_key", "'other'"), ("owner_id", "NULL"), ("created_at", "now()")]
)
async def test_nothing_else_of_an_ended_job_changes_and_no_key_is_given(jobs: Jobs, column, value):
    """The guard lets a key go and nothing more."""
    first = await ended(jobs, "fail")
    if column == "owner_id":
        value = "gen_random_uuid()"

    with pytest.raises(psycopg.errors.CheckViolation):
        await jobs.sql(f"UPDATE proving.plain_jobs SET {column} = {value} WHERE id = %s", first)
    with pytest.raises(psycopg.errors.CheckViolation):
        await jobs.sql("UPDATE proving.plain_jobs SET idempotency_key = NULL, retry_count = 0, version = 9")


@pytest.mark.parametrize("act", ["complete", "wait"])
async def test_a_job_that_is_alive_or_completed_keeps_its_key(jobs: Jobs, act):
    """Whoever says what, also through the function and by hand."""
    job = await ended(jobs, "complete") if act == "complete" else (await jobs.ready(idempotency_key="k"))[0]

    assert await jobs.sql("SELECT runtime.release_keys('proving.plain_jobs', ARRAY[%s])", job) == [{"release_keys": 0}]
    with pytest.raises(psycopg.errors.CheckViolation):
        await jobs.sql("UPDATE proving.plain_jobs SET idempotency_key = NULL WHERE id = %s", job)


async def test_every_job_table_lets_keys_go(jobs: Jobs):
    """Also one that comes later: the guard is found by the lifecycle."""
    found = await jobs.sql(
        """SELECT l.table_name, strpos(p.prosrc, runtime.key_fact(l.table_name)) > 0 AS known
             FROM runtime.lifecycles AS l JOIN pg_proc AS p
               ON p.pronamespace::regnamespace::text || '.' || p.proname
                  = split_part(l.table_name, '.', 1) || '.guard_' || split_part(l.table_name, '.', 2) || '_update'"""
    )

    assert len(found) >= 9
    assert [row["table_name"] for row in found if not row["known"]] == []
