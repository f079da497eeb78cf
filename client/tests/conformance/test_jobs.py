"""Enqueue, repeat, show, result, cancel, retry, lists: the same at the test gateway and at a real one."""

import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from gristmill_client import Conflict, Forbidden, NotFound, Refused, Stale, Unauthenticated
from gristmill_client.http import new_key
from gristmill_client.models import Outcome
from pydantic import BaseModel
from worlds import STAGE

MISSING = uuid.UUID("00000000-0000-4000-8000-000000000000")


def payload(world, tenant="first", **more):
    return {"profile_id": world.profile(tenant), "prompt": "Judge.", **more}


def enqueue(world, client, **options):
    return client.enqueue(STAGE, payload(world), **{"idempotency_key": new_key(), **options})


def test_a_new_job_is_as_it_begins(world, client):
    job = enqueue(world, client, priority=3, due_at=datetime(2030, 1, 1, tzinfo=UTC))

    assert (job.created, job.status, job.outcome, job.version, job.priority) == (True, "pending", None, 1, 3)
    assert (job.stage, job.has_ended, job.due_at) == (STAGE, False, datetime(2030, 1, 1, tzinfo=UTC))
    shown = client.show(job.id)
    assert (shown.id, shown.idempotency_key, shown.version) == (job.id, job.idempotency_key, 1)


def test_a_repeat_returns_the_job_as_it_is_now(world, client):
    wanted, key = payload(world), new_key()
    first = client.enqueue(STAGE, wanted, idempotency_key=key)
    client.cancel(first.id)

    again = client.enqueue(STAGE, wanted, idempotency_key=key, priority=9)

    assert (again.id, again.created, again.outcome, again.version) == (first.id, False, Outcome.CANCELLED, 2)


def test_a_key_with_other_content_is_refused_by_the_field_that_differs(world, client):
    wanted, key = payload(world), new_key()
    client.enqueue(STAGE, wanted, idempotency_key=key)

    with pytest.raises(Refused) as caught:
        client.enqueue(STAGE, {**wanted, "prompt": "Other."}, idempotency_key=key)

    error = caught.value
    assert (error.status, error.field, error.rule) == (
        422,
        "idempotency_key",
        "is taken by a job with another prompt",
    )
    assert error.request_id
    assert "\n" not in str(error)


def test_equal_keys_of_two_tenants_never_meet(world, connect):
    key = new_key()
    mine = connect("first").enqueue(STAGE, payload(world), idempotency_key=key)
    theirs = connect("second").enqueue(STAGE, payload(world, "second"), idempotency_key=key)

    assert (mine.created, theirs.created) == (True, True)
    assert mine.id != theirs.id


def test_after_a_failed_end_a_rerun_takes_the_key(world, client):
    wanted, key = payload(world), new_key()
    first = client.enqueue(STAGE, wanted, idempotency_key=key)
    world.fail(first.id, "broken")

    same = client.enqueue(STAGE, wanted, idempotency_key=key)
    new = client.enqueue(STAGE, {**wanted, "prompt": "Other."}, idempotency_key=key, on_failed="rerun")
    again = client.enqueue(STAGE, {**wanted, "prompt": "Other."}, idempotency_key=key, on_failed="rerun")

    assert (same.id, same.outcome, same.error) == (first.id, Outcome.FAILED, "broken")
    assert (new.created, new.idempotency_key, again.created, again.id) == (True, key, False, new.id)
    assert new.id != first.id
    assert client.show(first.id).idempotency_key is None


@pytest.mark.parametrize(
    ("change", "options", "field"),
    [
        ({"prompt": None}, {}, "payload.prompt"),
        ({"prompt": ""}, {}, "payload.prompt"),
        ({"colour": "red"}, {}, "payload.colour"),
        ({"priority": 1}, {}, "payload.priority"),
        ({}, {"priority": 11}, "priority"),
        ({}, {"idempotency_key": " k"}, "idempotency_key"),
        ({}, {"idempotency_key": ""}, "idempotency_key"),
        ({}, {"idempotency_key": "k" * 256}, "idempotency_key"),
        ({}, {"callback_url": "ftp://x"}, "callback_url"),
        ({}, {"within": timedelta(hours=24)}, "within"),
        ({}, {"lane": "batch", "within": timedelta(seconds=1)}, "within"),
        ({}, {"on_failed": "twice"}, "on_failed"),
        ({}, {"traceparent": "x"}, "traceparent"),
    ],
)
def test_what_breaks_a_rule_is_named_by_its_field(world, client, change, options, field):
    """With the rule; nothing is enqueued, and the value of an address is not shown."""
    with pytest.raises(Refused) as caught:
        client.enqueue(STAGE, payload(world) | change, **{"idempotency_key": new_key(), **options})

    assert (caught.value.field, caught.value.status, caught.value.code) == (field, 422, "invalid")
    assert caught.value.rule
    assert "ftp://" not in str(caught.value)


def test_an_unknown_stage_is_refused(world, client):
    with pytest.raises(Refused) as caught:
        client.enqueue("no.such", {}, idempotency_key=new_key())

    assert (caught.value.field, caught.value.status) == ("stage", 422)


def test_a_job_of_another_tenant_is_like_a_missing_one(world, client, connect):
    """In every operation."""
    other = connect("second")
    theirs = other.enqueue(STAGE, payload(world, "second"), idempotency_key=new_key()).id

    for id_ in (theirs, MISSING):
        for call in (
            client.show,
            client.cancel,
            lambda id_: client.result(id_, dict),
            lambda id_: list(client.transitions(id_)),
            lambda id_: list(client.follow(id_)),
            lambda id_: client.wait(id_, timeout=60),
            client.retry,
        ):
            with pytest.raises(NotFound) as caught:
                call(id_)
            assert (caught.value.status, caught.value.code) == (404, "not-found")


def test_a_key_does_what_its_scopes_allow(world, client, connect):
    job = enqueue(world, client)
    reader = connect("reader")

    assert reader.show(job.id).id == job.id
    for call in (lambda: enqueue(world, reader), lambda: reader.cancel(job.id)):
        with pytest.raises(Forbidden) as caught:
            call()
        assert (caught.value.field, caught.value.rule) == ("scope", "must include jobs:write")
    with pytest.raises(Unauthenticated) as nobody:
        connect("gm_nobody").show(job.id)
    assert "gm_nobody" not in str(nobody.value)


# ── changes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_cancel_ends_the_job_and_keeps_the_reason(world, client):
    job = enqueue(world, client)

    ended = client.cancel(job.id, reason="no longer wanted", version=1)

    assert (ended.outcome, ended.version, ended.has_ended) == (Outcome.CANCELLED, 2, True)
    history = list(client.transitions(job.id))
    assert [(one.version, one.old_state, one.new_state) for one in history] == [
        (1, None, "pending"),
        (2, "pending", "cancelled"),
    ]
    assert (history[1].reason, history[1].outcome) == ("no longer wanted", Outcome.CANCELLED)
    with pytest.raises(Conflict) as caught:
        client.cancel(job.id)
    assert not isinstance(caught.value, Stale)


def test_a_stale_version_is_refused_naming_both(world, client):
    job = enqueue(world, client)

    with pytest.raises(Stale) as caught:
        client.cancel(job.id, version=7)

    assert caught.value.status == 412
    assert "version 1" in str(caught.value)
    assert "version 7" in str(caught.value)
    assert client.show(job.id).outcome is None


def test_of_ten_writers_with_one_version_one_wins(world, connect):
    job = enqueue(world, connect())
    clients = [connect() for _ in range(10)]
    together = threading.Barrier(10)

    def cancel(client):
        together.wait()
        try:
            return client.cancel(job.id, version=1).outcome
        except Stale:
            return "stale"

    with ThreadPoolExecutor(10) as pool:
        found = Counter(pool.map(cancel, clients))

    assert found == {Outcome.CANCELLED: 1, "stale": 9}
    assert clients[0].show(job.id).version == 2


def test_only_an_operator_retries(world, client, connect):
    job = enqueue(world, client)
    world.fail(job.id, "broken")
    operator = connect("operator")

    with pytest.raises(Forbidden, match="rerun"):
        client.retry(job.id)
    with pytest.raises(Stale):
        operator.retry(job.id, version=1)
    done = operator.retry(job.id, version=3)

    assert (done.status, done.version, done.outcome) == ("pending", 4, None)
    with pytest.raises(Conflict):
        operator.retry(job.id)


def test_a_decision_about_a_job_that_does_not_wait_is_a_conflict(world, client):
    job = enqueue(world, client)

    for version in (1, 7):
        with pytest.raises(Conflict) as caught:
            client.decide(job.id, "approved", version=version)
        assert not isinstance(caught.value, Stale)


# ── results and lists ────────────────────────────────────────────────────────────────────────────────────────────────


class Score(BaseModel):
    overall: float


class ScoreResult(BaseModel):
    parsed_score: Score


def test_a_result_is_there_after_a_good_end(world, client):
    """As a model; None before."""
    job = enqueue(world, client)
    before = client.result(job.id, ScoreResult)
    world.complete(job.id, {"overall": 7})

    after = client.result(job.id, ScoreResult)

    assert (before.value, before.outcome, before.version) == (None, None, 1)
    assert (after.outcome, after.version, after.error) == (Outcome.COMPLETED, 3, None)
    assert after.value.parsed_score.overall == 7
    assert client.result(job.id, dict).value["parsed_score"] == {"overall": 7}


def test_a_failed_job_has_an_error_and_no_result(world, client):
    job = enqueue(world, client)
    world.fail(job.id, "the model said no")

    found = client.result(job.id, ScoreResult)

    assert (found.outcome, found.value, found.error) == (Outcome.FAILED, None, "the model said no")


def test_a_list_has_all_pages_newest_first(world, client):
    """Only of those that match, and only the caller's."""
    profile = world.profile()
    made = [
        client.enqueue(STAGE, {"profile_id": profile, "prompt": str(n)}, idempotency_key=new_key()) for n in range(3)
    ]
    client.cancel(made[1].id)
    enqueue(world, client)
    mine = {"members": {"profile_id": profile}}

    def ids(**more):
        return [job.id for job in client.list_jobs(stage=STAGE, **mine, **more)]

    assert ids() == [job.id for job in reversed(made)]
    assert ids(limit=2) == [made[2].id, made[1].id]
    assert ids(state="cancelled") == [made[1].id]
    assert [job.id for job in client.list_jobs(key=made[0].idempotency_key)] == [made[0].id]
    assert ids(until=made[0].created_at) == []
    assert client.count_jobs(**mine).jobs == 3


def test_an_unknown_filter_is_refused(world, client):
    with pytest.raises(Refused) as caught:
        list(client.list_jobs(members={"colour": "red"}))

    assert caught.value.field == "colour"


def test_an_operator_lists_the_jobs_of_all(world, connect):
    made = {
        connect(tenant).enqueue(STAGE, payload(world, tenant), idempotency_key=new_key()).id
        for tenant in ("first", "second")
    }

    found = {job.id for job in connect("operator").list_jobs(limit=20)}

    assert made <= found
    assert not made <= {job.id for job in connect("first").list_jobs(limit=20)}
