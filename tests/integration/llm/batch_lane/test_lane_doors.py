"""The lane of a job at every door: it is written with the job or not at all, and only by whoever may enqueue it."""

import json
import uuid
from datetime import timedelta

import psycopg
import pytest
from psycopg import errors

from workers.runtime.enqueue import EnqueueError, enqueue, enqueue_many
from workers.runtime.operate.requests import put_request, read_request

DAY = timedelta(days=1)
PLAIN = "proving.plain"


async def lanes(jobs):
    return await jobs.sql(
        "SELECT job_id, stage, lane, within_until - created_at AS within, within_until - take_over_at AS margin "
        "FROM llm.lanes ORDER BY job_id"
    )


async def test_python_puts_a_job_into_the_lane_in_its_own_transaction(jobs):
    """The lane exists after the commit, with the job; by default an answer may take a day, less an hour."""
    async with jobs.database.session() as session:
        job = await enqueue(session, PLAIN, {}, lane="batch")
        assert await lanes(jobs) == []

    [row] = await lanes(jobs)
    assert (row["job_id"], row["stage"], row["lane"]) == (job.id, PLAIN, "batch")
    assert (row["within"], row["margin"]) == (DAY, timedelta(hours=1))


async def test_a_rolled_back_job_leaves_no_lane(jobs):
    """Both are of one transaction."""
    async with jobs.database.session() as session:
        await enqueue(session, PLAIN, {}, lane="batch")
        await session.rollback()

    assert await lanes(jobs) == []


@pytest.mark.parametrize("count", [3, 150])
async def test_many_jobs_have_each_their_lane(jobs, count):
    """Inserted or copied: those with a lane have it, each with its own time, and the others have none."""
    spans = [None, "2h", "24h"]
    rows = [{} if (span := spans[n % 3]) is None else {"lane": "batch", "within": span} for n in range(count)]

    async with jobs.database.session() as session:
        made = await enqueue_many(session, PLAIN, rows)

    found = {row["job_id"]: row["within"] for row in await lanes(jobs)}
    assert [found.get(one.id) for one in made] == [
        None if span is None else timedelta(hours=int(span[:-1])) for span in (spans[n % 3] for n in range(count))
    ]


async def test_a_repeated_key_does_not_move_the_first_job(jobs):
    """The repeat returns the first job, which keeps its lane."""
    async with jobs.database.session() as session:
        first = await enqueue(session, PLAIN, {}, idempotency_key="k")
    async with jobs.database.session() as session:
        second = await enqueue(session, PLAIN, {}, idempotency_key="k", lane="batch")

    assert (second.id, second.created) == (first.id, False)
    assert await lanes(jobs) == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"lane": "slow"}, "lane must be 'normal' or 'batch', got 'slow'"),
        ({"within": "2h"}, "within is for the batch lane: give lane='batch' with it, got '2h'"),
        ({"lane": "normal", "within": "2h"}, "within is for the batch lane: give lane='batch' with it, got '2h'"),
        ({"lane": "batch", "within": "1m"}, "within must be from 5 minutes to 7 days, got '1m'"),
        ({"lane": "batch", "within": "soon"}, "within must be a time span like 90m, 24h or 2d, or a number of seconds"),
        ({"lane": "batch", "within": 10**20}, "within must be a time span like 90m, 24h or 2d, or a number of seconds"),
    ],
)
async def test_a_wrong_lane_is_refused_in_one_line(jobs, options, problem):
    """It names the option, the rule and the value."""
    with pytest.raises(EnqueueError) as refused:
        async with jobs.database.session() as session:
            await enqueue(session, PLAIN, {}, **options)

    assert str(refused.value).startswith(problem)


async def test_a_celery_message_may_name_the_lane(jobs):
    """By keyword, beside the other options."""
    request = read_request([PLAIN, {}], {"lane": "batch", "within": "2h"}, message_id="m")

    async with jobs.database.session() as session:
        job = await session.run_sync(lambda sync: put_request(sync, request))

    [row] = await lanes(jobs)
    assert (row["job_id"], row["within"]) == (job.id, timedelta(hours=2))


def test_the_command_line_puts_a_job_into_the_lane(gristmill, psql):
    """``--lane batch --within 12h``; a wrong value ends with one line."""
    code, printed, said = gristmill("enqueue", PLAIN, "--payload", "{}", "--lane", "batch", "--within", "12h", "--json")

    assert (code, said) == (0, "")
    [row] = psql.execute("SELECT job_id, within_until - created_at AS within FROM llm.lanes").fetchall()
    assert str(row["job_id"]) == json.loads(printed)["id"]
    assert row["within"] == timedelta(hours=12)
    code, _, said = gristmill("enqueue", PLAIN, "--payload", "{}", "--lane", "fast")
    assert code != 0
    assert "lane must be 'normal' or 'batch', got 'fast'" in said


@pytest.fixture
def service(psql):
    """A session of a service that acts for Alice, with a profile of hers; it is rolled back."""
    alice = uuid.uuid4()
    with psql.transaction(force_rollback=True):
        psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(alice)])
        psql.execute("SET LOCAL ROLE gristmill_service")
        [row] = psql.execute("INSERT INTO scoring.profiles (name) VALUES ('p') RETURNING id").fetchall()
        yield psql, row["id"]


def test_sql_puts_a_job_into_the_lane(service):
    """One call around the door of the domain; it returns the job's id."""
    psql, profile = service

    [row] = psql.execute(
        "SELECT runtime.in_lane(scoring.enqueue_score(%s, 'Judge.'), 'batch', '6 hours') AS id", [profile]
    ).fetchall()

    psql.execute("RESET ROLE")
    [lane] = psql.execute("SELECT * FROM llm.lanes").fetchall()
    assert lane["job_id"] == row["id"]
    assert lane["within_until"] - lane["created_at"] == timedelta(hours=6)


@pytest.mark.parametrize(
    ("lane", "within"),
    [("slow", "1 day"), (None, "1 day"), ("batch", "1 second"), ("batch", "1 year"), ("batch", None)],
)
def test_sql_refuses_a_wrong_lane(service, lane, within):
    """As the other doors do."""
    psql, profile = service

    with pytest.raises(errors.InvalidParameterValue, match=r"^(lane|within) must be"), psql.transaction():
        psql.execute("SELECT runtime.in_lane(scoring.enqueue_score(%s, 'Judge.'), %s, %s)", [profile, lane, within])


def test_nobody_moves_a_job_of_another_owner_or_of_another_transaction(psql):
    """A tenant has no say in others' jobs, nor in its own once they are enqueued."""
    alice, mallory = uuid.uuid4(), uuid.uuid4()
    [profile] = psql.execute(
        "INSERT INTO scoring.profiles (name, owner_id) VALUES ('p', %s) RETURNING id", [alice]
    ).fetchall()
    [job] = psql.execute("SELECT scoring.enqueue_score(%s, 'Judge.') AS id", [profile["id"]]).fetchall()

    for user in (alice, mallory):
        with psql.transaction():
            psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(user)])
            psql.execute("SET LOCAL ROLE gristmill_service")
            [row] = psql.execute("SELECT runtime.put_in_lane(ARRAY[%s]::uuid[], 'batch', '1 day') AS n", [job["id"]])
            assert row["n"] == 0

    assert psql.execute("SELECT 1 FROM llm.lanes").fetchall() == []


def test_services_see_and_write_nothing_of_the_lane(service):
    """Neither lanes, nor questions and answers, nor batches."""
    psql, _ = service

    for table in ("lanes", "batch_requests", "batch_allowances"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), psql.transaction():
            psql.execute(f"SELECT * FROM llm.{table}")
    assert psql.execute("SELECT * FROM llm.batches").fetchall() == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege), psql.transaction():
        psql.execute("INSERT INTO llm.batches (provider, model) VALUES ('p', 'm')")
    for function in ("llm.ask_in_batch('[]', 0)", "llm.ensure_batch('p', 'm', 0)",
                     "llm.release_ended(uuidv7())", "llm.gather_batch(uuidv7(), 'p', 'm', 1, 1)"):  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientPrivilege), psql.transaction():
            psql.execute(f"SELECT {function}")
