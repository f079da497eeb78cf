"""Cancel, retry and decide through the gateway: versions, rights, races."""

import asyncio
from collections import Counter

import pytest

from tests.support.gateway import JOBS_OPERATOR, OTHER
from tests.support.proving.models import WaitingJob
from workers.runtime.handler.outcomes import Fail

ASK = "proving.ask"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_a_cancel_ends_the_job_and_keeps_the_reason(service, tenants):
    """The history names the key."""
    [job] = tenants.enqueue()

    answer = await service.post(f"/v1/jobs/{job}/cancel", json={"reason": "no longer wanted"})

    assert answer.status_code == 200, answer.text
    assert (answer.json()["outcome"], answer.headers["etag"]) == ("cancelled", '"2"')
    history = (await service.get(f"/v1/jobs/{job}/transitions")).json()["items"]
    assert history[-1]["reason"] == "no longer wanted"
    assert history[-1]["changed_by"] == "gristmill_service as key:service"
    again = await service.post(f"/v1/jobs/{job}/cancel")
    assert (again.status_code, again.json()["type"]) == (409, "/problems/conflict")


async def test_a_stale_version_names_both(service, tenants):
    """Nothing is changed."""
    [job] = tenants.enqueue()

    refused = await service.post(f"/v1/jobs/{job}/cancel", headers={"If-Match": '"7"'})

    assert refused.status_code == 412
    assert refused.json()["type"] == "/problems/stale-version"
    assert "is at version 1, got version 7" in refused.json()["detail"]
    assert (await service.get(f"/v1/jobs/{job}")).json()["outcome"] is None


async def test_a_version_is_sent_once(service, tenants, waiting):
    """Of two nobody can say which one was read. Nothing is changed."""
    [job] = tenants.enqueue()
    twice = [("If-Match", '"1"'), ("If-Match", '"9"')]

    cancelled = await service.post(f"/v1/jobs/{job}/cancel", headers=twice)
    decided = await service.post(
        f"/v1/jobs/{waiting}/decide", json={"into": "approved"}, headers=[("If-Match", '"3"'), ("If-Match", "*")]
    )

    for answer in (cancelled, decided):
        assert (answer.status_code, answer.json()["detail"]) == (422, "If-Match must be sent once")
    assert (await service.get(f"/v1/jobs/{job}")).json()["version"] == 1


@pytest.mark.parametrize("sent", ['W/"1"', "1", '"1", "2"', '"01"', '""', '"-1"', '"x"'])
async def test_what_is_no_version_is_refused(service, tenants, sent):
    """It is not read as `any version`."""
    [job] = tenants.enqueue()

    refused = await service.post(f"/v1/jobs/{job}/cancel", headers={"If-Match": sent})

    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "If-Match")


@pytest.mark.parametrize("run", range(3))
@pytest.mark.parametrize("key", [None, JOBS_OPERATOR])
async def test_of_ten_writers_with_one_version_one_wins(service, tenants, run, key):
    """The nine others are told that they are late."""
    [job] = tenants.enqueue()
    headers = {"If-Match": '"1"'} | (bearer(key) if key else {})

    answers = await asyncio.gather(*(service.post(f"/v1/jobs/{job}/cancel", headers=headers) for _ in range(10)))

    assert Counter(answer.status_code for answer in answers) == {200: 1, 412: 9}
    assert (await service.get(f"/v1/jobs/{job}")).json()["version"] == 2


async def test_only_an_operator_retries(service, tenants, jobs):
    """A tenant is told what to do instead; an operator's retry sends the job back."""
    [id_] = tenants.enqueue()
    [job] = await jobs.claim(await jobs.dispatched("scoring.score", count=0), "scoring.score")
    await jobs.settle(job, Fail("broken"), "scoring.score")

    refused = await service.post(f"/v1/jobs/{id_}/retry")
    stale = await service.post(f"/v1/jobs/{id_}/retry", headers=bearer(JOBS_OPERATOR) | {"If-Match": '"1"'})
    done = await service.post(f"/v1/jobs/{id_}/retry", headers=bearer(JOBS_OPERATOR) | {"If-Match": '"3"'})

    assert (refused.status_code, "rerun" in refused.json()["detail"]) == (403, True)
    assert stale.status_code == 412
    assert (done.status_code, done.json()["status"], done.json()["version"]) == (200, "pending", 4)


@pytest.fixture
async def waiting(jobs, psql, tenants):
    """A job of the first tenant that waits for an approval; its id."""
    from workers.runtime.handler.outcomes import Complete

    with psql.transaction():
        psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(tenants.first)])
        id_ = psql.execute("INSERT INTO proving.waiting_jobs DEFAULT VALUES RETURNING id").fetchone()["id"]
    [job] = await jobs.claim(await jobs.dispatched(ASK, count=0), ASK)
    assert isinstance(job, WaitingJob)
    assert await jobs.settle(job, Complete(), ASK)
    return id_


async def test_a_decision_needs_the_version(service, waiting):
    """428 without, 412 with another."""
    without = await service.post(f"/v1/jobs/{waiting}/decide", json={"into": "approved"})
    stale = await service.post(f"/v1/jobs/{waiting}/decide", json={"into": "approved"}, headers={"If-Match": '"2"'})

    assert without.status_code == 428
    assert stale.status_code == 412
    assert "is at version 3, got version 2" in stale.json()["detail"]


@pytest.mark.parametrize("key", [None, JOBS_OPERATOR])
async def test_a_decision_lets_the_job_go_on(service, waiting, key):
    """In the name of the caller, with its reason; another decision is too late."""
    headers = {"If-Match": '"3"'} | (bearer(key) if key else {})

    done = await service.post(
        f"/v1/jobs/{waiting}/decide", json={"into": "approved", "reason": "fine"}, headers=headers
    )
    late = await service.post(f"/v1/jobs/{waiting}/decide", json={"into": "rejected"}, headers={"If-Match": '"3"'})

    assert (done.status_code, done.json()["version"]) == (200, 4), done.text
    history = (await service.get(f"/v1/jobs/{waiting}/transitions")).json()["items"]
    assert (history[-1]["action"], history[-1]["reason"]) == ("decide", "fine")
    assert late.status_code == 412
    assert "is at version 4, got version 3" in late.json()["detail"]


async def test_of_ten_decisions_one_wins(service, waiting):
    """The nine others are told that they are late."""
    answers = await asyncio.gather(
        *(
            service.post(f"/v1/jobs/{waiting}/decide", json={"into": into}, headers={"If-Match": '"3"'})
            for into in ["approved", "rejected"] * 5
        )
    )

    assert Counter(answer.status_code for answer in answers) == {200: 1, 412: 9}


async def test_a_decision_that_the_wait_does_not_know_is_refused(service, waiting, tenants):
    """The line lists what is possible. A job that does not wait is a conflict; another's job does not exist."""
    unknown = await service.post(f"/v1/jobs/{waiting}/decide", json={"into": "perhaps"}, headers={"If-Match": "*"})
    [other] = tenants.enqueue()
    never = await service.post(f"/v1/jobs/{other}/decide", json={"into": "approved"}, headers={"If-Match": "*"})
    theirs = await service.post(
        f"/v1/jobs/{waiting}/decide", json={"into": "approved"}, headers={"If-Match": '"3"'} | bearer(OTHER)
    )

    assert (unknown.status_code, "approved" in unknown.json()["detail"]) == (422, True)
    assert (never.status_code, "waits for no decision" in never.json()["detail"]) == (409, True)
    assert theirs.status_code == 404
