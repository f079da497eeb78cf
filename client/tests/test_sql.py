"""``gristmill_client.sql`` over every kind of connection, as a service with the least rights."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from connections import WAYS, RolledBack, django_connection
from gristmill_client import NewJob, NotPossible, Outcome, Refused, sql
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

SCORE = "scoring.score"


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def way(request):
    return request.param


def payload(profile):
    return {"profile_id": profile, "prompt": "Judge."}


def test_a_job_is_enqueued_in_the_callers_transaction(way, service_url, admin, user, profile):
    """It exists after the commit, with the given values; the second call is a repeat."""
    due = datetime(2999, 1, 1, tzinfo=UTC)
    with way(service_url) as (connection, _):
        sql.act_for(connection, user)
        job = sql.enqueue(connection, SCORE, payload(profile), idempotency_key="k", priority=2, due_at=due)
        again = sql.enqueue(connection, SCORE, payload(profile), idempotency_key="k", priority=2, due_at=due)
        seen = sql.status(connection, job.id)
        assert admin.execute("SELECT 1 FROM runtime.jobs WHERE id = %s", [job.id]).fetchall() == []

    assert (job.created, again.created, again.id) == (True, False, job.id)
    assert seen is not None
    assert (seen.id, seen.stage, seen.status, seen.outcome, seen.version) == (job.id, SCORE, "pending", None, 1)
    row = admin.execute(
        "SELECT owner_id, priority, due_at FROM scoring.scoring_jobs WHERE id = %s", [job.id]
    ).fetchone()
    assert row == (user, 2, due)


def test_a_rollback_leaves_nothing(way, service_url, admin, user, profile):
    made = []

    def scenario():
        with way(service_url) as (connection, _):
            sql.act_for(connection, user)
            made.append(sql.enqueue(connection, SCORE, payload(profile)).id)
            raise RolledBack

    with pytest.raises(RolledBack):
        scenario()

    assert admin.execute("SELECT 1 FROM runtime.jobs WHERE id = %s", made).fetchall() == []


def test_a_refusal_leaves_the_callers_transaction_as_it_was(way, service_url, admin, user, profile):
    """What the caller wrote before stays, and it goes on; so after every kind of refusal."""
    refused = [
        (SCORE, {"payload": {"profile_id": profile}}, "prompt", "invalid"),
        (SCORE, {"payload": payload(uuid.uuid4())}, "payload", "forbidden"),
        (
            SCORE,
            {"payload": {**payload(profile), "prompt": "Other."}, "idempotency_key": "k"},
            "idempotency_key",
            "key_taken",
        ),
        (SCORE, {"payload": payload(profile), "priority": 0}, "priority", "invalid"),
        (SCORE, {"payload": {**payload(profile), "prompt": "\x00"}}, None, "invalid"),
        ("no.such", {"payload": {}}, "stage", "unknown_stage"),
    ]
    with way(service_url) as (connection, execute):
        sql.act_for(connection, user)
        first = sql.enqueue(connection, SCORE, payload(profile), idempotency_key="k")
        execute("INSERT INTO scoring.profiles (name) VALUES ('written by the caller')")
        for stage, job, field, code in refused:
            with pytest.raises(Refused) as caught:
                sql.enqueue_many(connection, stage, [job])
            assert "\n" not in str(caught.value)
            assert caught.value.code == code
            assert field is None or caught.value.field == field
        second = sql.enqueue(connection, SCORE, payload(profile))

    found = admin.execute("SELECT count(*) FROM scoring.scoring_jobs WHERE id = ANY (%s)", [[first.id, second.id]])
    assert found.fetchone() == (2,)
    found = admin.execute("SELECT name FROM scoring.profiles WHERE owner_id = %s ORDER BY id", [user])
    assert found.fetchall() == [("Ada",), ("written by the caller",)]


def test_many_jobs_come_back_in_their_order(way, service_url, admin, user, profile):
    """Over several statements; the position of a refused one counts from the first job."""
    jobs = [NewJob(payload={"profile_id": profile, "prompt": f"Judge {n}."}, idempotency_key=f"k{n}") for n in range(7)]
    with way(service_url) as (connection, _), pytest.MonkeyPatch.context() as patch:
        patch.setattr("gristmill_client.sql.statements.JOBS_PER_STATEMENT", 3)
        sql.act_for(connection, user)
        done = sql.enqueue_many(connection, SCORE, jobs)
        with pytest.raises(Refused, match=r"^job 5: priority must be ") as caught:
            sql.enqueue_many(connection, SCORE, [*jobs[:5], jobs[5].model_copy(update={"priority": 99}), jobs[6]])

    assert caught.value.position == 5
    prompts = dict(admin.execute("SELECT id, prompt FROM scoring.scoring_jobs WHERE owner_id = %s", [user]).fetchall())
    assert [prompts[job.id] for job in done] == [f"Judge {n}." for n in range(7)]


def test_of_many_jobs_all_are_enqueued_or_none(way, service_url, admin, user, profile):
    """Also if the refused one is in a later statement: the first statement's jobs are taken back."""
    jobs = [{"payload": payload(profile)} for _ in range(5)]
    with way(service_url) as (connection, execute), pytest.MonkeyPatch.context() as patch:
        patch.setattr("gristmill_client.sql.statements.JOBS_PER_STATEMENT", 2)
        sql.act_for(connection, user)
        execute("INSERT INTO scoring.profiles (name) VALUES ('written by the caller')")
        with pytest.raises(Refused, match=r"^job 4: payload must be an object"):
            sql.enqueue_many(connection, SCORE, [*jobs[:4], {"payload": None}])

    assert admin.execute("SELECT count(*) FROM scoring.scoring_jobs WHERE owner_id = %s", [user]).fetchone() == (0,)
    assert admin.execute("SELECT count(*) FROM scoring.profiles WHERE owner_id = %s", [user]).fetchone() == (2,)


def test_no_job_is_enqueued_of_nothing(way, service_url):
    with way(service_url) as (connection, _):
        assert sql.enqueue_many(connection, SCORE, []) == []


def test_a_job_is_cancelled_and_run_again(way, service_url, user, profile):
    """Once; and a rerun takes the key of the cancelled one."""
    with way(service_url) as (connection, _):
        sql.act_for(connection, user)
        job = sql.enqueue(connection, SCORE, payload(profile), idempotency_key="k")
        assert sql.cancel(connection, job.id, "changed my mind")
        assert not sql.cancel(connection, job.id)
        seen = sql.status(connection, job.id)
        same = sql.enqueue(connection, SCORE, payload(profile), idempotency_key="k")
        new = sql.enqueue(connection, SCORE, payload(profile), idempotency_key="k", on_failed="rerun")

    assert seen is not None
    assert (seen.outcome, seen.has_ended) == (Outcome.CANCELLED, True)
    assert (same.id, new.created) == (job.id, True)
    assert new.id != job.id


def test_the_result_of_a_job_is_read_when_it_completed(way, service_url, admin, user, profile):
    with way(service_url) as (connection, _):
        sql.act_for(connection, user)
        job = sql.enqueue(connection, SCORE, payload(profile))
        assert sql.result(connection, job.id) is None
    with admin.transaction():  # as a worker leaves it
        admin.execute("SET LOCAL session_replication_role = replica")
        admin.execute(
            """UPDATE scoring.scoring_jobs SET status = 'completed', completed_at = now(), version = 3, progress = 100,
                      parsed_score = '{"score": 7}' WHERE id = %s""",
            [job.id],
        )

    with way(service_url) as (connection, _):
        sql.act_for(connection, user)
        assert sql.result(connection, job.id) == {"llm_response": None, "parsed_score": {"score": 7}}
        done = sql.status(connection, job.id)

    assert done is not None
    assert done.outcome == "completed"


def test_a_job_of_another_user_looks_like_none(way, service_url, user, profile):
    with way(service_url) as (connection, _):
        sql.act_for(connection, user)
        job = sql.enqueue(connection, SCORE, payload(profile), idempotency_key="k")
    stranger = uuid.uuid4()

    for id_ in (job.id, uuid.uuid4()):
        with way(service_url) as (connection, _):
            sql.act_for(connection, stranger)
            assert sql.status(connection, id_) is None
            assert sql.result(connection, id_) is None
            assert not sql.cancel(connection, id_)


def test_a_job_in_the_batch_lane(way, service_url, admin, user, profile):
    with way(service_url) as (connection, _):
        sql.act_for(connection, user)
        job = sql.enqueue(connection, SCORE, payload(profile), lane="batch", within=timedelta(hours=6))

    [(seconds,)] = admin.execute(
        "SELECT extract(epoch FROM l.within_until - j.created_at)::int FROM llm.lanes AS l "
        "JOIN scoring.scoring_jobs AS j ON j.id = l.job_id WHERE j.id = %s",
        [job.id],
    ).fetchall()
    assert seconds == 6 * 3600


def test_an_autocommit_connection_needs_no_savepoint(service_url, admin, user, profile):
    """Each call is a transaction of its own; a refusal leaves the connection usable."""
    with psycopg.connect(service_url, autocommit=True) as connection:
        connection.execute("SELECT set_config('gristmill.user_id', %s, false)", [str(user)])
        with pytest.raises(Refused):
            sql.enqueue(connection, SCORE, {})
        job = sql.enqueue(connection, SCORE, payload(profile))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gristmill_client.sql.statements.JOBS_PER_STATEMENT", 1)
            with pytest.raises(Refused):
                sql.enqueue_many(connection, SCORE, [{"payload": payload(profile)}, {"payload": {}}])
            together = sql.enqueue_many(connection, SCORE, [{"payload": payload(profile)}] * 2)
        engine = create_engine("postgresql+psycopg://", creator=lambda: connection, poolclass=NullPool)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
            second = sql.enqueue(other, SCORE, payload(profile))
            with pytest.raises(Refused):
                sql.enqueue(other, SCORE, {})

    found = {id_ for (id_,) in admin.execute("SELECT id FROM scoring.scoring_jobs WHERE owner_id = %s", [user])}
    assert found == {job.id, second.id, *(one.id for one in together)}


@pytest.mark.parametrize("payload", [{"x": float("nan")}, {"x": object()}, {"x": b"\xff"}])
def test_what_json_does_not_have_is_refused_in_one_line(service_url, payload):
    with psycopg.connect(service_url) as connection, pytest.raises(Refused) as caught:
        sql.enqueue(connection, SCORE, payload)

    assert str(caught.value).startswith("payload ")
    assert "\n" not in str(caught.value)


def test_other_objects_are_no_connections(service_url):
    for thing in (None, "postgresql://…", object()):
        with pytest.raises(NotPossible, match="connection must be of psycopg"):
            sql.enqueue(thing, SCORE, {})


def test_other_errors_are_the_drivers(service_url, admin):
    """A broken connection is no refusal."""
    with psycopg.connect(service_url) as connection:
        admin.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
        with pytest.raises(psycopg.OperationalError):
            sql.enqueue(connection, SCORE, {})


@pytest.fixture
def job(service_url, user, profile):
    with psycopg.connect(service_url) as connection:
        sql.act_for(connection, user)
        return sql.enqueue(connection, SCORE, payload(profile)).id


def waitable(kind, url):
    if kind == "psycopg":
        return psycopg.connect(url, autocommit=True)
    if kind == "engine":
        info = psycopg.conninfo.conninfo_to_dict(url)
        return create_engine("postgresql+psycopg://", connect_args=info, poolclass=NullPool)
    return django_connection(url)


@pytest.mark.parametrize("kind", ["psycopg", "engine", "django"])
def test_wait_returns_when_the_job_has_ended(kind, service_url, admin, user, job):
    """The notification wakes it: long before it would look again. Afterwards the connection listens no more."""
    connection = waitable(kind, service_url)
    listening = """SELECT count(*) FROM pg_stat_activity
                    WHERE query LIKE '%%FROM acting%%runtime.status%%' AND state = 'idle' AND pid <> pg_backend_pid()"""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(sql.wait, connection, job, timeout=60, user_id=user)
        ends = time.monotonic() + 30
        while admin.execute(listening, []).fetchone() == (0,) and time.monotonic() < ends:
            time.sleep(0.01)
        admin.execute("SELECT runtime.cancel(%s)", [job])
        done = waiting.result(30)

    assert done.outcome == "cancelled"
    if kind == "psycopg":
        assert connection.execute("SELECT pg_listening_channels()").fetchall() == []
        assert connection.execute("SELECT nullif(current_setting('gristmill.user_id', true), '')").fetchone() == (None,)
        connection.close()
    if kind == "django":
        connection.close()


def test_wait_returns_the_job_as_it_is_when_the_time_is_up(service_url, user, job):
    """Never an error."""
    with psycopg.connect(service_url, autocommit=True) as connection:
        seen = sql.wait(connection, job, timeout=0.05, user_id=user)

    assert (seen.outcome, seen.status) == (None, "pending")


def test_wait_refuses_a_job_that_is_not_seen(service_url, job):
    with psycopg.connect(service_url, autocommit=True) as connection, pytest.raises(Refused) as caught:
        sql.wait(connection, job, timeout=1, user_id=uuid.uuid4())

    assert caught.value.code == "not_found"


def test_wait_refuses_a_transaction(way, service_url, job):
    """The job starts after the commit, so the wait would never end."""
    with way(service_url) as (connection, _), pytest.raises(NotPossible, match="wait "):
        sql.wait(connection, job, timeout=1)
