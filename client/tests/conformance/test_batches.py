"""Many jobs with one request."""

import pytest
from gristmill_client import Enqueued, NewJob, Refused
from gristmill_client.http import new_key
from worlds import STAGE


@pytest.fixture
def profile(world):
    return world.profile()


def jobs(profile, count, **more):
    for nth in range(count):
        yield {"payload": {"profile_id": profile, "prompt": f"Judge {nth}."}, "idempotency_key": new_key(), **more}


def test_many_jobs_come_back_in_their_order(client, profile):
    """More than a page of the file; a repeat returns the same."""
    many = list(jobs(profile, 1_500))

    done = client.enqueue_many(STAGE, iter(many))
    again = client.enqueue_many(STAGE, many)

    assert [one.created for one in done] == [True] * len(many)
    assert [one.created for one in again] == [False] * len(many)
    assert [one.id for one in again] == [one.id for one in done]
    keys = {job.id: job.idempotency_key for job in client.list_jobs(members={"profile_id": profile})}
    assert [keys[one.id] for one in done] == [job["idempotency_key"] for job in many]


def test_one_refused_job_refuses_all_and_is_named(client, profile):
    """Its place counts from 0."""
    many = list(jobs(profile, 5))
    many[3]["payload"]["prompt"] = 7

    with pytest.raises(Refused) as caught:
        client.enqueue_many(STAGE, many)

    assert (caught.value.position, caught.value.field) == (3, "payload.prompt")
    assert list(client.list_jobs(members={"profile_id": profile})) == []


def test_each_for_itself(client, profile):
    """What was refused is an error at its place."""
    many = list(jobs(profile, 4))
    many[1]["payload"]["colour"] = "red"
    many[2]["stage"] = "no.such"

    first, second, third, fourth = client.enqueue_each(STAGE, many)

    assert isinstance(first, Enqueued)
    assert isinstance(fourth, Enqueued)
    assert (second.position, second.field) == (1, "payload.colour")
    assert (third.position, third.field) == (2, "stage")
    assert isinstance(second, Refused)
    assert {job.id for job in client.list_jobs(members={"profile_id": profile})} == {first.id, fourth.id}


def test_each_job_says_whether_it_has_a_key(client, profile):
    """A forgotten key is found before anything is sent."""
    wanted = {"profile_id": profile, "prompt": "x"}
    with pytest.raises(Refused) as caught:
        client.enqueue_many(STAGE, [{"payload": wanted, "idempotency_key": "k"}, {"payload": wanted}])
    assert (caught.value.position, caught.value.field) == (1, "idempotency_key")

    [done] = client.enqueue_many(STAGE, [NewJob(payload=wanted, idempotency_key=None)])
    assert client.show(done.id).idempotency_key is None


def test_nothing_is_no_job(client):
    assert client.enqueue_many(STAGE, []) == []
    assert client.enqueue_each(STAGE, []) == []
