"""Each end of a job is told once, whoever ends it, to whoever wants to know."""

import uuid
from datetime import timedelta

import pytest

from tests.support.callbacks import TESTER, telling
from tests.support.kernel import PLAIN
from tests.support.waits import ASK, decided, expired, waiting
from workers.runtime.handler.outcomes import Cancel, Complete, Fail
from workers.runtime.operate.changes import cancel_job, retry_job
from workers.runtime.store.rescue import rescue_expired

URL = "https://service.example/hook?token=1"
DONE = "UPDATE proving.plain_jobs SET status = 'cancelled', version = version + 1, completed_at = now() WHERE id = %s"


async def _settled(jobs, outcome):
    [job] = await jobs.running(callback_url=URL)
    assert await jobs.settle(job, outcome)
    return job.id


async def _completed(jobs, _):
    return await _settled(jobs, Complete())


async def _failed(jobs, _):
    return await _settled(jobs, Fail("no"))


async def _cancelled_by_handler(jobs, _):
    return await _settled(jobs, Cancel("no"))


async def _cancelled_by_operator(jobs, _):
    [job] = await jobs.ready(callback_url=URL)
    async with jobs.database.kernel() as conn:
        await cancel_job(conn, job, TESTER)
    return job


async def _cancelled_in_psql(jobs, psql):
    [job] = await jobs.ready(callback_url=URL)
    psql.execute(DONE, [job])
    return job


async def _rescued_without_attempts(jobs, psql):
    [job] = await jobs.running(callback_url=URL)
    await jobs.unguarded(
        """UPDATE proving.plain_jobs SET deadline_at = now() - interval '1 hour', retry_count = max_retries
            WHERE id = %s""",
        job.id,
    )
    async with jobs.database.kernel() as conn:
        assert await rescue_expired(conn, jobs.registry[PLAIN], led_for=timedelta(hours=1)) == 1
    return job.id


async def _expired(jobs, _):
    [(job, _version)] = await waiting(jobs, until=timedelta(microseconds=1), callback_url=URL)
    assert await expired(jobs) == 1
    return job


async def _decided(into, jobs):
    tickets = await waiting(jobs, callback_url=URL)
    await decided(jobs, tickets, into)
    return tickets[0][0]


async def _rejected(jobs, _):
    return await _decided("rejected", jobs)


async def _waived(jobs, _):
    return await _decided("waived", jobs)


ENDS = {
    "settle": (_completed, "job.completed", "completed"),
    "fail": (_failed, "job.failed", "failed"),
    "cancel by the handler": (_cancelled_by_handler, "job.cancelled", "cancelled"),
    "cancel by an operator": (_cancelled_by_operator, "job.cancelled", "cancelled"),
    "psql": (_cancelled_in_psql, "job.cancelled", "cancelled"),
    "rescue": (_rescued_without_attempts, "job.failed", "failed"),
    "expiry": (_expired, "job.expired", "lapsed"),
    "a decision against": (_rejected, "job.cancelled", "rejected"),
    "a decision for": (_waived, "job.completed", "waived"),
}


@pytest.mark.parametrize(("end", "event", "status"), ENDS.values(), ids=ENDS)
async def test_each_end_becomes_one_delivery(  # noqa: PLR0917 - pytest passes them by name
    jobs, psql, callbacks, lead_and_take, end, event, status
):
    """With the job, its state and its version, in the transaction that takes the notice."""
    job = await end(jobs, psql)

    await lead_and_take()

    [row] = await callbacks.rows()
    assert (row["event"], row["job_id"], row["job_status"], row["url"]) == (event, job, status, URL)
    assert (row["status"], row["owner_id"], row["endpoint_id"], row["max_retries"]) == ("pending", None, None, 9)
    [shown] = await jobs.sql("SELECT version FROM runtime.jobs WHERE id = %s", job)
    assert row["job_version"] == shown["version"]
    assert await jobs.sql("SELECT * FROM runtime.notices") == []


async def test_a_delivery_tells_of_itself_to_nobody(jobs, psql, callbacks, receiver, lead_and_take):
    """An endpoint for everything would otherwise be told for ever."""
    await callbacks.endpoint(receiver, every_owner=True)
    await _completed(jobs, psql)
    await lead_and_take()

    psql.execute(
        "UPDATE notifications.deliveries SET status = 'cancelled', version = version + 1, completed_at = now()"
    )

    assert await jobs.sql("SELECT * FROM runtime.notices") == []


@pytest.fixture
def ids():
    return {"owner": uuid.uuid4(), "stranger": uuid.uuid4(), "nobody": None}


def _enqueue_for(psql, owner):
    with psql.transaction():
        psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(owner) if owner else ""])
        return psql.execute("INSERT INTO proving.plain_jobs DEFAULT VALUES RETURNING id").fetchone()["id"]


@pytest.mark.parametrize("job_of", ["owner", "stranger", "nobody"])
async def test_endpoints_are_told_of_the_jobs_that_they_want(  # noqa: PLR0917 - pytest passes them by name
    jobs, psql, callbacks, ids, lead_and_take, job_of
):
    """Of their owner's, in their stages; the operators' of nobody's or, if they say so, of everybody's."""
    add = (
        "INSERT INTO notifications.endpoints (owner_id, every_owner, url, stages, secret) VALUES (%s, %s, %s, %s, 's')"
    )
    wanted = {
        "owner": (ids["owner"], False, None),
        "owner-stage": (ids["owner"], False, [PLAIN, ASK]),
        "owner-other": (ids["owner"], False, [ASK]),
        "stranger": (ids["stranger"], False, None),
        "operators": (None, False, None),
        "everybody": (None, True, [PLAIN]),
    }
    for name, (owner, every_owner, stages) in wanted.items():
        psql.execute(add, [owner, every_owner, f"https://a.example/{name}", stages])
    job = _enqueue_for(psql, ids[job_of])

    psql.execute(DONE, [job])
    await lead_and_take()

    found = await jobs.sql(
        """SELECT e.url, d.owner_id = e.owner_id OR num_nonnulls(d.owner_id, e.owner_id) = 0 AS is_of_its_endpoint
             FROM notifications.deliveries AS d JOIN notifications.endpoints AS e ON e.id = d.endpoint_id"""
    )
    told = {
        "owner": {"owner", "owner-stage", "everybody"},
        "stranger": {"stranger", "everybody"},
        "nobody": {"operators", "everybody"},
    }
    assert {row["url"].rpartition("/")[2] for row in found} == told[job_of]
    assert all(row["is_of_its_endpoint"] for row in found)


async def test_a_disabled_and_a_deleted_endpoint_are_told_nothing(jobs, psql, callbacks, receiver, lead_and_take):
    """And cost nothing: the guards know of no interest."""
    first, second = await callbacks.endpoint(receiver), await callbacks.endpoint(receiver)
    psql.execute("UPDATE notifications.endpoints SET disabled_at = now() WHERE id = %s", [first])
    psql.execute("SELECT notifications.delete_endpoint(%s)", [second])
    assert await jobs.sql("SELECT * FROM runtime.notice_interests") == []

    [job] = await jobs.running()
    await jobs.settle(job, Complete())
    assert await jobs.sql("SELECT * FROM runtime.notices") == []

    psql.execute("UPDATE notifications.endpoints SET disabled_at = NULL WHERE id = %s", [first])
    [job] = await jobs.running()
    await jobs.settle(job, Complete())
    await lead_and_take()
    assert [row["endpoint_id"] for row in await callbacks.rows()] == [first]


async def test_a_job_that_fails_again_is_told_again(database_url, registry, jobs, callbacks, receiver):
    """Each end has its own message, with its own version."""
    await callbacks.one_off_secret(receiver)
    async with telling(database_url, registry):
        [job] = await jobs.ready(callback_url=receiver.url(), act="fail")
        await callbacks.until_states("delivered")
        async with jobs.database.kernel() as conn:
            await retry_job(conn, job, TESTER)
        await callbacks.until_states("delivered", "delivered")

    assert len(set(receiver.ids)) == 2
    assert [body["data"]["version"] for body in receiver.bodies] == [3, 6]
    assert all(receiver.verified(one) for one in receiver.seen)
