"""Many jobs at once: copied in if possible, else inserted by statements; the caller sees no difference."""

import asyncio
import uuid

import pytest
from sqlalchemy import text

from tests.support.kernel import PLAIN
from workers.runtime import enqueue as door
from workers.runtime.enqueue import ROWS_TO_COPY, EnqueueError, enqueue_many

SCORE = "scoring.score"


async def test_a_copied_batch_is_enqueued_like_any_other(jobs):
    """Ids ascend in the given order, options are stored, and each job has its first transition."""
    asked = [{"key": f"\\N\t{n}\n", "priority": 1 + n % 10} for n in range(ROWS_TO_COPY)]

    async with jobs.database.session() as session:
        done = await enqueue_many(session, PLAIN, asked)

    rows = await jobs.sql("SELECT id, key, priority, status, version FROM proving.plain_jobs ORDER BY id")
    assert [row["id"] for row in rows] == [job.id for job in done]
    assert [{"key": row["key"], "priority": row["priority"]} for row in rows] == asked
    assert {(row["status"], row["version"]) for row in rows} == {("pending", 1)}
    assert await jobs.actions(done[-1].id) == ["enqueue"]
    assert all(job.created for job in done)


async def test_a_copied_batch_goes_with_its_transaction(jobs):
    """A rollback removes all its jobs."""
    async with jobs.database.session() as session:
        await enqueue_many(session, PLAIN, [{}] * ROWS_TO_COPY)
        await session.rollback()

    assert await jobs.count() == 0


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"act": "x" * 21}, r"value too long for type character varying\(20\)"),
        (
            {"key": "a\x00b"},
            "job 100: key must not contain a NUL character, which Postgres cannot store, got .*",
        ),
    ],
)
async def test_a_refused_row_refuses_a_copied_batch_in_one_line(jobs, payload, said):
    """Like for a single job, the line has no statement and no payload, and the caller's savepoint works."""
    async with jobs.database.session() as session:
        with pytest.raises(EnqueueError, match=f"^{said}$"):
            async with session.begin_nested():
                await enqueue_many(session, PLAIN, [*[{}] * ROWS_TO_COPY, payload])
        await enqueue_many(session, PLAIN, [{}] * ROWS_TO_COPY)

    assert await jobs.count() == ROWS_TO_COPY


async def test_a_copied_batch_names_the_row_it_refers_to_in_vain(jobs):
    """The line names the column, the value and the table."""
    missing = uuid.uuid4()

    with pytest.raises(EnqueueError) as caught:
        async with jobs.database.session() as session:
            await enqueue_many(session, SCORE, [{"profile_id": missing, "prompt": "Judge."}] * ROWS_TO_COPY)

    assert str(caught.value) == f'Key (profile_id)=({missing}) is not present in table "profiles"'


async def test_a_service_under_row_level_security_enqueues_many_too(jobs):
    """Row level security refuses COPY, so statements are used."""
    owner = uuid.uuid4()
    [row] = await jobs.sql("INSERT INTO scoring.profiles (name, owner_id) VALUES ('Ada', %s) RETURNING id", owner)

    async with jobs.database.session() as session:
        await session.execute(text("SET LOCAL ROLE gristmill_service"))
        await session.execute(text("SELECT set_config('gristmill.user_id', :owner, true)"), {"owner": str(owner)})
        done = await enqueue_many(session, SCORE, [{"profile_id": row["id"], "prompt": "Judge."}] * ROWS_TO_COPY)
        await session.execute(text("RESET ROLE"))

    assert len({job.id for job in done}) == await jobs.count(SCORE) == ROWS_TO_COPY


async def test_batches_that_share_keys_across_statements_do_not_deadlock(jobs, monkeypatch):
    """All keys are inserted in one order, whatever the order of the caller."""
    monkeypatch.setattr(door, "ROWS_PER_STATEMENT", 5)
    asked = [{"idempotency_key": f"{n:02}"} for n in range(40)]

    async def put(batch):
        async with jobs.database.session() as session:
            return await enqueue_many(session, PLAIN, batch)

    forward, backward = await asyncio.gather(put(asked), put(asked[::-1]))

    assert [job.id for job in forward] == [job.id for job in backward][::-1]
    assert await jobs.count() == len(asked)


async def test_ids_ascend_in_the_order_asked_for_whatever_the_keys(jobs):
    """Jobs of the same moment are dispatched in the order of their ids, not of their keys."""
    async with jobs.database.session() as session:
        done = await enqueue_many(session, PLAIN, [{"idempotency_key": key} for key in "cab"])

    assert [job.id for job in done] == sorted(job.id for job in done)
