"""The options that say who follows a job: an address that is told of its end, and the trace of who enqueued it."""

import pytest
import structlog

from tests.support.kernel import PLAIN, started_worker
from tests.support.proving.models import PlainJob
from workers.runtime.enqueue import ROWS_TO_COPY, EnqueueError, enqueue, enqueue_many
from workers.runtime.handler.context import Context
from workers.runtime.handler.outcomes import Complete
from workers.runtime.operate.requests import put_request, read_request

URL = "https://service.example/done?token=secret-1"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FOLLOW = {"callback_url": URL, "traceparent": TRACE}


async def test_one_job_keeps_who_follows_it(jobs):
    """Beside its other options."""
    async with jobs.database.session() as session:
        job = await enqueue(session, PLAIN, {"key": "k"}, priority=2, **FOLLOW)

    row = await jobs.row(job.id)
    assert (row["key"], row["priority"], row["callback_url"], row["traceparent"]) == ("k", 2, URL, TRACE)


@pytest.mark.parametrize("count", [1, 3, ROWS_TO_COPY + 1])
async def test_jobs_of_a_batch_may_be_followed_by_others(jobs, count):
    """Inserted or copied; those without a follower have none."""
    many = [{"key": str(n), **({"callback_url": f"{URL}{n}"} if n % 2 else {})} for n in range(count)]
    async with jobs.database.session() as session:
        made = await enqueue_many(session, PLAIN, many)

    rows = {row["id"]: row for row in await jobs.sql("SELECT id, key, callback_url FROM proving.plain_jobs")}
    found = [(rows[one.id]["key"], rows[one.id]["callback_url"]) for one in made]
    assert found == [(str(n), f"{URL}{n}" if n % 2 else None) for n in range(count)]


async def test_a_repeated_key_keeps_the_followers_of_the_first_job(jobs):
    """They are no content: the repeat is no other request."""
    async with jobs.database.session() as session:
        first = await enqueue(session, PLAIN, {}, idempotency_key="a", **FOLLOW)
        again = await enqueue(session, PLAIN, {}, idempotency_key="a", callback_url="https://other.example")

    assert (again.id, again.created) == (first.id, False)
    assert (await jobs.row(first.id))["callback_url"] == URL


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("callback_url", "ftp://a", "must be a web address"),
        ("callback_url", "https://", "must be a web address"),
        ("callback_url", "https://secret-1 ", "must be a web address"),
        ("callback_url", "https://secret-1\n", "must be a web address"),
        ("callback_url", "https://" + "secret-1" * 256, "must have at most 2048 characters"),
        ("callback_url", 7, "must be a valid string"),
        ("traceparent", "00-1-2-01", "must be a W3C trace context"),
        ("traceparent", f"00-{'0' * 32}-b7ad6b7169203331-01", "must be a W3C trace context"),
        ("traceparent", TRACE.replace("00-", "ff-", 1), "must be a W3C trace context"),
        ("traceparent", TRACE + "\n", "must be a W3C trace context"),
    ],
)
async def test_what_nobody_can_follow_is_refused(jobs, option, value, rule):
    """In one line that names the option, and never shows an address: it may contain a secret."""
    with pytest.raises(EnqueueError) as caught:
        async with jobs.database.session() as session:
            await enqueue(session, PLAIN, {}, **{option: value})

    assert str(caught.value).startswith(f"{option} {rule}")
    assert "\n" not in str(caught.value)
    assert "secret-1" not in str(caught.value)


def test_a_message_says_who_follows_its_job():
    """By keyword."""
    request = read_request([PLAIN, {}], FOLLOW, message_id="m")

    assert request.options == {**FOLLOW, "idempotency_key": "celery:m"}


async def test_the_job_of_a_message_keeps_who_follows_it(jobs):
    """The door of Celery is the same door."""
    request = read_request([PLAIN, {}], FOLLOW, message_id="m")
    async with jobs.database.session() as session:
        done = await session.run_sync(lambda sync: put_request(sync, request))

    assert (await jobs.row(done.id))["callback_url"] == URL


async def test_a_service_says_who_follows_its_job(jobs, psql):
    """It may insert both columns, and change neither."""
    with psql.transaction(force_rollback=True):
        psql.execute("SET LOCAL ROLE gristmill_service")
        psql.execute("SELECT set_config('gristmill.user_id', gen_random_uuid()::text, true)")
        psql.execute("INSERT INTO proving.plain_jobs (callback_url, traceparent) VALUES (%s, %s)", [URL, TRACE])
        found = psql.execute("SELECT callback_url FROM proving.plain_jobs").fetchall()

    assert found == [{"callback_url": URL}]


def test_the_command_says_who_is_told(gristmill, psql):
    """`gristmill enqueue --callback`."""
    code, printed, said = gristmill("enqueue", PLAIN, "--payload", "{}", "--callback", URL)

    assert (code, said) == (0, "")
    row = psql.execute("SELECT id::text, callback_url FROM proving.plain_jobs").fetchone()
    assert row == {"id": printed.strip(), "callback_url": URL}


async def test_a_run_knows_the_trace_of_its_job(jobs, database_url, perform):
    """Its context has it, and what it logs names the trace."""
    seen = {}

    @perform
    async def look(_job: PlainJob, ctx: Context) -> Complete:
        seen["context"] = ctx.traceparent
        seen["logged"] = structlog.contextvars.get_contextvars().get("trace_id")
        return Complete()

    tickets = await jobs.dispatched(**FOLLOW)
    async with started_worker(database_url, perform.registry) as worker:
        await worker.run(tickets)

    assert seen == {"context": TRACE, "logged": "0af7651916cd43dd8448eb211c80319c"}
