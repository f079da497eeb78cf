"""Waits and streams."""

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from gristmill_client.http import Progress, Transition, new_key
from gristmill_client.models import Outcome
from worlds import STAGE


@pytest.fixture
def job(world, client):
    wanted = {"profile_id": world.profile(), "prompt": "Judge."}
    return client.enqueue(STAGE, wanted, idempotency_key=new_key())


@pytest.mark.parametrize("timeout", [30, 300, None], ids=["long poll", "stream", "without end"])
def test_a_wait_ends_with_the_job(world, client, job, timeout):
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.wait, job.id, timeout=timeout)
        world.complete(job.id, {"overall": 7})
        done = waiting.result(25)

    assert (done.outcome, done.version) == (Outcome.COMPLETED, 3)


def test_a_wait_ends_with_its_time(client, job):
    """It is no error."""
    assert client.wait(job.id, timeout=0.1).outcome is None
    assert client.wait(job.id, timeout=0).outcome is None


def test_a_wait_for_an_ended_job_returns_at_once(world, client, job):
    world.fail(job.id, "broken")

    assert client.wait(job.id).outcome is Outcome.FAILED
    assert client.result(job.id, dict, timeout=None).error == "broken"


def test_a_wait_tells_the_progress(world, client, job):
    told = []
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.wait, job.id, on_progress=told.append)
        deadline = time.monotonic() + 25
        percent = 10
        while not told and time.monotonic() < deadline:
            world.start(job.id, progress=percent)
            percent = min(percent + 1, 90)
            time.sleep(0.05)
        world.complete(job.id, {})
        waiting.result(25)

    assert told
    assert set(told) <= set(range(10, 101))


def test_a_job_is_followed_to_its_end(world, client, job):
    """Each transition once; behind a version only what follows it."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(lambda: list(client.follow(job.id)))
        world.start(job.id)
        world.complete(job.id, {})
        found = [one for one in following.result(25) if isinstance(one, Transition)]

    assert [(one.version, one.new_state, one.outcome) for one in found] == [
        (1, "pending", None),
        (2, "processing", None),
        (3, "completed", Outcome.COMPLETED),
    ]
    assert [one.position for one in found] == ["1", "2", "3"]
    assert [one.version for one in client.follow(job.id, after=1) if not isinstance(one, Progress)] == [2, 3]
    assert list(client.follow(job.id, after=3)) == []


def first_position(client):
    """Return the position at which a stream begins."""
    begun, found = threading.Event(), []

    def keep(position):
        found.append(position)
        begun.set()
        raise _Enough

    with pytest.raises(_Enough):
        next(iter(client.follow_many(on_position=keep)))
    return found[0]


class _Enough(Exception):
    pass


def test_all_jobs_are_followed_from_a_position(world, client, connect):
    """Only the caller's; another stream goes on at any position and misses nothing."""
    position = first_position(client)
    wanted = {"profile_id": world.profile(), "prompt": "Judge."}
    made = [client.enqueue(STAGE, wanted, idempotency_key=new_key()).id for _ in range(3)]
    theirs = connect("second")
    theirs.enqueue(STAGE, {**wanted, "profile_id": world.profile("second")}, idempotency_key=new_key())
    client.cancel(made[1])

    def take(count, **options):
        stream = client.follow_many(**options)
        found = []
        for one in stream:
            found.append(one)
            if len(found) == count:
                break
        stream.close()
        return found

    events = take(4, after=position)
    assert [one.job_id for one in events] == [*made, made[1]]
    assert events[3].outcome is Outcome.CANCELLED
    assert [one.job_id for one in take(2, after=events[1].position, stage=STAGE)] == [made[2], made[1]]


def test_the_stream_of_a_stage_that_does_not_exist(client):
    from gristmill_client import NotFound, NotPossible

    with pytest.raises(NotFound):
        next(iter(client.follow_many(stage="no.such")))
    with pytest.raises(NotPossible):
        next(iter(client.follow_many(stage=STAGE, project_id=uuid.uuid4())))
