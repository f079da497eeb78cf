"""The routes of jobs: enqueue, repeat, show, wait, history, result."""

import asyncio
import uuid

import pytest

from gristmill_testing.waiting import until
from tests.support.gateway import JOBS_OPERATOR, OTHER, READER, TENANT

MISSING = "00000000-0000-4000-8000-000000000000"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def problem(answer, status: int) -> dict[str, object]:
    """Return the first error of a problem with this status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    first: dict[str, object] = answer.json()["errors"][0]
    return first


async def test_a_new_job_is_the_callers_and_can_be_read(service, tenants, psql):
    """The answer is what a GET answers; the audit names the key and the request."""
    answer = await service.post("/v1/jobs", json=tenants.score(priority=3), headers={"X-Request-Id": "r-1"})

    assert answer.status_code == 201, answer.text
    assert answer.headers["etag"] == '"1"'
    assert "idempotent-replayed" not in answer.headers
    shown = await service.get(answer.headers["location"])
    assert shown.headers["etag"] == '"1"'
    assert {**shown.json(), "wait_reason": None} == answer.json()
    assert (answer.json()["status"], answer.json()["priority"], answer.json()["outcome"]) == ("pending", 3, None)
    row = psql.execute("SELECT owner_id FROM scoring.scoring_jobs").fetchone()
    assert row["owner_id"] == TENANT
    made = psql.execute("SELECT changed_by, context FROM runtime.transitions").fetchone()
    assert made == {"changed_by": "gristmill_service as key:service", "context": {"request_id": "r-1"}}


async def test_a_repeat_returns_the_job_as_it_is_now(service, tenants):
    """With the header that says so."""
    wanted = tenants.score(idempotency_key="k")
    first = await service.post("/v1/jobs", json=wanted)
    tenants.cancel(first.json()["id"])

    again = await service.post("/v1/jobs", json=wanted)

    assert again.status_code == 200
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["etag"] == '"2"'
    assert (again.json()["id"], again.json()["outcome"]) == (first.json()["id"], "cancelled")


async def test_a_key_with_other_content_is_refused_by_the_field_that_differs(service, tenants):
    """Nothing is enqueued."""
    await service.post("/v1/jobs", json=tenants.score(idempotency_key="k"))

    refused = await service.post("/v1/jobs", json=tenants.score(idempotency_key="k", prompt="Other."))

    found = problem(refused, 422)
    assert (found["field"], found["rule"]) == ("idempotency_key", "is taken by a job with another prompt")


async def test_equal_keys_of_two_tenants_never_meet(service, tenants):
    """Each gets a job of its own, and its own again."""
    mine = await service.post("/v1/jobs", json=tenants.score(idempotency_key="k"))
    theirs = await service.post(
        "/v1/jobs", json=tenants.score(tenants.second, idempotency_key="k"), headers=bearer(OTHER)
    )

    assert (mine.status_code, theirs.status_code) == (201, 201)
    assert mine.json()["id"] != theirs.json()["id"]


@pytest.mark.parametrize("header", ["k", '"k"'])
async def test_the_key_may_be_a_header(service, tenants, header):
    """Plain or quoted; it is the same key as in the body."""
    first = await service.post("/v1/jobs", json=tenants.score(), headers={"Idempotency-Key": header})
    again = await service.post("/v1/jobs", json=tenants.score(idempotency_key="k"))

    assert first.json()["idempotency_key"] == "k"
    assert again.json()["id"] == first.json()["id"]


async def test_a_null_in_the_body_is_no_key(service, tenants):
    """A typed client sends all its fields; the header counts."""
    answer = await service.post("/v1/jobs", json=tenants.score(idempotency_key=None), headers={"Idempotency-Key": "k"})

    assert (answer.status_code, answer.json()["idempotency_key"]) == (201, "k")


@pytest.mark.parametrize("key", ["", " ", '""', "x" * 256, "x" * 301])
async def test_a_header_that_is_no_key_is_refused(service, tenants, psql, key):
    """It is not ignored: the client believes that it may repeat the request."""
    refused = await service.post("/v1/jobs", json=tenants.score(), headers={"Idempotency-Key": key})

    assert problem(refused, 422)["field"] in {"idempotency_key", "Idempotency-Key"}
    assert psql.execute("SELECT count(*) AS n FROM scoring.scoring_jobs").fetchone()["n"] == 0


@pytest.mark.parametrize("headers", [[("Idempotency-Key", "a")], [("Idempotency-Key", "b"), ("Idempotency-Key", "k")]])
async def test_two_different_keys_are_refused(service, tenants, headers):
    """Nobody can say which one is meant."""
    refused = await service.post("/v1/jobs", json=tenants.score(idempotency_key="k"), headers=headers)

    assert problem(refused, 422)["field"] == "Idempotency-Key"


async def test_after_a_failed_end_a_rerun_takes_the_key(service, tenants):
    """Only if the client says so."""
    first = await service.post("/v1/jobs", json=tenants.score(idempotency_key="k"))
    tenants.cancel(first.json()["id"])

    new = await service.post("/v1/jobs", json=tenants.score(idempotency_key="k", on_failed="rerun"))

    assert new.status_code == 201
    assert new.json()["id"] != first.json()["id"]
    assert new.json()["idempotency_key"] == "k"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"payload": {"profile_id": MISSING}}, "payload.prompt"),
        ({"payload": {"profile_id": MISSING, "prompt": 7}}, "payload.prompt"),
        ({"payload": {"profile_id": MISSING, "prompt": "x", "colour": "red"}}, "payload.colour"),
        ({"payload": {"profile_id": MISSING, "prompt": "x", "priority": 1}}, "payload.priority"),
        ({"payload": []}, "payload"),
        ({"stage": "no.such"}, "stage"),
        ({"priority": 11}, "priority"),
        ({"idempotency_key": " k"}, "idempotency_key"),
        ({"callback_url": "ftp://x"}, "callback_url"),
        ({"within": "24h"}, "within"),
        ({"on_failed": "twice"}, "on_failed"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_what_breaks_a_rule_is_named_by_its_field(service, tenants, change, field):
    """By the path in the body; nothing is enqueued."""
    refused = await service.post("/v1/jobs", json=tenants.score() | change)

    assert problem(refused, 422)["field"] == field


async def test_a_job_about_the_thing_of_another_is_refused_like_one_about_nothing(service, tenants):
    """The answers differ in nothing."""
    wanted = tenants.score(tenants.second)
    theirs = await service.post("/v1/jobs", json=wanted)
    nobodys = await service.post("/v1/jobs", json=wanted | {"payload": {**wanted["payload"], "profile_id": MISSING}})

    assert theirs.status_code == nobodys.status_code == 403
    assert theirs.json() | {"request_id": ""} == nobodys.json() | {"request_id": ""}


async def test_the_job_of_another_tenant_is_like_a_missing_one(service, tenants):
    """In every route."""
    [job] = tenants.enqueue(tenants.second)
    for method, path in (
        ("GET", ""),
        ("GET", "/transitions"),
        ("GET", "/result"),
        ("GET", "/events"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
    ):
        theirs = await service.request(method, f"/v1/jobs/{job}{path}")
        nobodys = await service.request(method, f"/v1/jobs/{MISSING}{path}")
        assert theirs.status_code == nobodys.status_code == 404, path
        same = [answer.text.replace(str(id_), "ID") for answer, id_ in ((theirs, job), (nobodys, MISSING))]
        for answer, place in ((theirs, 0), (nobodys, 1)):
            same[place] = same[place].replace(answer.headers["x-request-id"], "R")
        assert same[0] == same[1]


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", f"/v1/jobs{path}") for path in ("", "/batch", f"/{MISSING}/cancel", f"/{MISSING}/retry")],
)
async def test_who_may_only_read_changes_nothing(service, tenants, method, path):
    """The problem names the scope."""
    refused = await service.request(method, path, headers=bearer(READER), json=tenants.score())

    assert refused.status_code == 403
    assert "'jobs:write'" in refused.json()["detail"]


async def test_a_job_of_the_batch_lane_goes_into_it(service, tenants, psql):
    """In the same transaction as the job."""
    answer = await service.post("/v1/jobs", json=tenants.score(lane="batch", within="48h"))

    assert answer.status_code == 201
    found = psql.execute("SELECT job_id, lane FROM llm.lanes").fetchone()
    assert found == {"job_id": uuid.UUID(answer.json()["id"]), "lane": "batch"}


async def test_the_trace_of_the_request_is_the_jobs(service, tenants, psql):
    """A header that is no trace context is ignored."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await service.post("/v1/jobs", json=tenants.score(), headers={"traceparent": trace})
    await service.post("/v1/jobs", json=tenants.score(), headers={"traceparent": "nonsense"})

    found = psql.execute("SELECT traceparent FROM scoring.scoring_jobs ORDER BY id").fetchall()
    assert [row["traceparent"] for row in found] == [trace, None]


# ── waiting ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_wait_ends_with_the_job(service, tenants):
    """At the POST and at the GET; the answer is the ended job."""
    posted = asyncio.create_task(service.post("/v1/jobs?wait=60", json=tenants.score(idempotency_key="k")))
    found: list[str] = []

    async def is_there() -> bool:
        found[:] = [job["id"] for job in (await service.get("/v1/jobs")).json()["items"]]
        return bool(found)

    await until(is_there)
    shown = asyncio.create_task(service.get(f"/v1/jobs/{found[0]}?wait=60"))
    await asyncio.sleep(0)
    tenants.cancel(found[0])

    answers = await asyncio.wait_for(asyncio.gather(posted, shown), 30)
    assert [answer.status_code for answer in answers] == [201, 200]
    assert {answer.json()["outcome"] for answer in answers} == {"cancelled"}
    assert {answer.headers["etag"] for answer in answers} == {'"2"'}


@pytest.mark.parametrize("lane", ["normal", "batch"])
async def test_an_enqueue_that_waits_never_loses_its_job(service, tenants, psql, lane):
    """If the job cannot be read at the end, the answer is the job as it was made: an error would make a second one."""
    wanted = tenants.score(lane=lane) | ({"within": "48h"} if lane == "batch" else {})
    posted = asyncio.create_task(service.post("/v1/jobs?wait=60", json=wanted))
    deleted: list[str] = []

    async def is_gone() -> bool:
        rows = psql.execute("DELETE FROM scoring.scoring_jobs RETURNING id").fetchall()
        deleted.extend(str(row["id"]) for row in rows)
        return bool(deleted)

    await until(is_gone)
    answer = await asyncio.wait_for(posted, 30)

    assert (answer.status_code, answer.headers["etag"]) == (201, '"1"'), answer.text
    assert [answer.json()["id"]] == deleted


async def test_a_wait_ends_with_its_time(service, tenants):
    """It is no error: the answer is the job as it is."""
    [job] = tenants.enqueue()

    answer = await service.get(f"/v1/jobs/{job}?wait=0.05")

    assert (answer.status_code, answer.json()["outcome"]) == (200, None)


@pytest.mark.parametrize("wait", ["61", "-1", "nan", "x"])
async def test_a_wait_has_bounds(service, tenants, wait):
    """The problem names the parameter."""
    refused = await service.get(f"/v1/jobs/{MISSING}?wait={wait}")

    assert problem(refused, 422)["field"] == "wait"


# ── history and result ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_history_has_pages(service, tenants):
    """Oldest first; each page goes on where the one before ended."""
    [job] = tenants.enqueue()
    tenants.cancel(job)

    first = (await service.get(f"/v1/jobs/{job}/transitions?limit=1")).json()
    second = (await service.get(f"/v1/jobs/{job}/transitions?limit=1&cursor={first['next']}")).json()

    assert [one["version"] for one in first["items"] + second["items"]] == [1, 2]
    assert [one["outcome"] for one in first["items"] + second["items"]] == [None, "cancelled"]
    assert second["next"] is None


async def test_a_result_is_there_after_a_good_end(service, tenants, jobs):
    """Before that it is null."""
    from workers.runtime.handler.outcomes import Complete

    [id_] = tenants.enqueue()
    before = (await service.get(f"/v1/jobs/{id_}/result")).json()
    [job] = await jobs.claim(await jobs.dispatched("scoring.score", count=0), "scoring.score")
    await jobs.settle(job, Complete(values={"parsed_score": {"overall": 7}}), "scoring.score")

    after = await service.get(f"/v1/jobs/{id_}/result")

    assert (before["outcome"], before["result"]) == (None, None)
    assert after.headers["etag"] == '"3"'
    assert after.json()["outcome"] == "completed"
    assert after.json()["result"]["parsed_score"] == {"overall": 7}


async def test_the_list_has_pages_bound_to_their_filter(service, tenants):
    """A cursor of another list is refused."""
    made = tenants.enqueue(count=3)
    tenants.enqueue(tenants.second)

    first = (await service.get("/v1/jobs?limit=2&stage=scoring.score")).json()
    tenants.enqueue()
    second = (await service.get(f"/v1/jobs?limit=2&stage=scoring.score&cursor={first['next']}")).json()
    refused = await service.get(f"/v1/jobs?limit=2&cursor={first['next']}")

    assert [uuid.UUID(job["id"]) for job in first["items"] + second["items"]] == made[::-1]
    assert second["next"] is None
    assert problem(refused, 422)["field"] == "cursor"


@pytest.mark.parametrize("path", ["", "/count"])
async def test_a_filter_is_sent_once(service, tenants, path):
    """Of two only one would count, and the list would show what was not asked for."""
    refused = await service.get(f"/v1/jobs{path}?stage=scoring.score&state=failed&stage=ingestion.ingest")

    assert problem(refused, 422) | {"remedy": None} == {
        "field": "stage",
        "rule": "must be sent once",
        "value": None,
        "remedy": None,
    }


async def test_an_operator_lists_the_jobs_of_all(service, tenants):
    """Of every tenant."""
    made = {*tenants.enqueue(), *tenants.enqueue(tenants.second)}

    found = (await service.get("/v1/jobs", headers=bearer(JOBS_OPERATOR))).json()

    assert {uuid.UUID(job["id"]) for job in found["items"]} == made
