"""POST /v1/jobs/batch: all or nothing, or each for itself."""

import json

import pytest

from gateway.routes import job_batches
from tests.support.gateway import OTHER

NDJSON = {"Content-Type": "application/x-ndjson"}


def lines(*jobs: object) -> bytes:
    return b"".join(json.dumps(job).encode() + b"\n" for job in jobs)


def count(psql) -> int:
    found: int = psql.execute("SELECT count(*) AS n FROM scoring.scoring_jobs").fetchone()["n"]
    return found


@pytest.mark.parametrize("kind", ["array", "lines"])
async def test_all_jobs_are_enqueued_in_order(service, tenants, psql, kind):
    """In one transaction."""
    wanted = [
        tenants.score(prompt=f"Judge {nth}.", idempotency_key=f"k{nth % 4}" if nth > 5 else None) for nth in range(8)
    ]
    wanted = [{name: value for name, value in one.items() if value is not None} for one in wanted]
    wanted[7] |= {"idempotency_key": "other"}

    if kind == "array":
        answer = await service.post("/v1/jobs/batch", json=wanted)
    else:
        answer = await service.post("/v1/jobs/batch", content=lines(*wanted), headers=NDJSON)

    assert answer.status_code == 201, answer.text
    assert answer.json()["created"] == 8
    rows = psql.execute("SELECT id, prompt, xmin FROM scoring.scoring_jobs").fetchall()
    prompts = {str(row["id"]): row["prompt"] for row in rows}
    assert [prompts[one["id"]] for one in answer.json()["jobs"]] == [f"Judge {nth}." for nth in range(8)]
    assert len({row["xmin"] for row in rows}) == 1


async def test_more_than_a_part_of_the_file(service, tenants, psql):
    """The parts join to one answer."""
    answer = await service.post("/v1/jobs/batch", json=[tenants.score()] * 2_001)

    assert answer.json()["created"] == len({one["id"] for one in answer.json()["jobs"]}) == 2_001
    assert count(psql) == 2_001


async def test_a_repeated_batch_returns_its_jobs(service, tenants, psql):
    """Also a key that is twice in it; two tenants' equal keys never meet."""
    wanted = [
        tenants.score(idempotency_key="a"),
        tenants.score(idempotency_key="b"),
        tenants.score(idempotency_key="a"),
    ]

    first = (await service.post("/v1/jobs/batch", json=wanted)).json()
    again = (await service.post("/v1/jobs/batch", json=wanted)).json()
    theirs = await service.post(
        "/v1/jobs/batch",
        json=[tenants.score(tenants.second, idempotency_key="a")],
        headers={"Authorization": f"Bearer {OTHER}"},
    )

    assert [one["created"] for one in first["jobs"]] == [True, True, False]
    assert [one["id"] for one in again["jobs"]] == [one["id"] for one in first["jobs"]]
    assert again["created"] == 0
    assert theirs.json()["created"] == 1
    assert count(psql) == 3


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"payload": {"prompt": "x"}}, "2.payload.profile_id"),
        ({"payload": 5}, "2.payload"),
        ({"priority": 0}, "2.priority"),
        ({"colour": "red"}, "2.colour"),
        ({"stage": "no.such"}, "2.stage"),
        ({"stage": 5}, "2.stage"),
    ],
)
async def test_one_invalid_job_refuses_all(service, tenants, psql, change, field):
    """The problem names its place and its field."""
    wanted = [tenants.score(), tenants.score(), tenants.score() | change, tenants.score()]

    refused = await service.post("/v1/jobs/batch", json=wanted)

    assert refused.status_code == 422, refused.text
    assert refused.json()["errors"][0]["field"] == field
    assert count(psql) == 0


async def test_what_the_database_refuses_names_no_wrong_place(service, tenants, psql):
    """Of a batch it is not known which job it was."""
    wanted = [tenants.score(idempotency_key="k"), tenants.score(), tenants.score(idempotency_key="k", prompt="Other.")]

    refused = await service.post("/v1/jobs/batch", json=wanted)

    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "idempotency_key"
    assert count(psql) == 0


@pytest.mark.parametrize("kind", ["array", "lines"])
async def test_each_job_for_itself_has_a_line(service, tenants, psql, kind):
    """A refused one stops no other; a line that is not JSON is one of them."""
    wanted = [
        tenants.score(idempotency_key="a"),
        tenants.score() | {"payload": {"prompt": "x"}},
        tenants.score(idempotency_key="a"),
        tenants.score(idempotency_key="a", prompt="Other."),
        5 if kind == "lines" else {},
        tenants.score() | {"stage": "no.such"},
        tenants.score(),
    ]
    if kind == "array":
        answer = await service.post("/v1/jobs/batch?mode=each", json=wanted)
    else:
        body = lines(*wanted) + b"{nonsense\n"
        answer = await service.post("/v1/jobs/batch?mode=each", content=body, headers=NDJSON)

    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.status_code == 200
    assert [row["index"] for row in rows] == list(range(len(rows)))
    assert [row.get("created") for row in rows[:7]] == [True, None, False, None, None, None, True]
    assert rows[1]["errors"][0]["field"] == "payload.profile_id"
    assert rows[3]["errors"][0]["field"] == "idempotency_key"
    assert rows[5]["errors"][0]["field"] == "stage"
    assert len(rows) == 7 or rows[7]["errors"][0]["field"] == "job"
    assert count(psql) == 2


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
async def test_a_batch_has_a_largest_number(service, tenants, psql, monkeypatch, kind):
    """One more is too many, and nothing is enqueued."""
    monkeypatch.setattr(job_batches, "MAX_JOBS", 3)
    for number, status in ((3, 201), (4, 413)):
        jobs = [tenants.score()] * number
        body = json.dumps(jobs).encode() if kind == "application/json" else lines(*jobs)
        answer = await service.post("/v1/jobs/batch", content=body, headers={"Content-Type": kind})
        assert answer.status_code == status
    assert count(psql) == 3


async def test_the_trace_of_the_request_is_that_of_its_jobs(service, tenants, psql):
    """Except of a job that names another one."""
    trace, own = (f"00-{digit * 32}-{digit * 16}-01" for digit in "12")
    wanted = [tenants.score(), tenants.score(traceparent=own)]

    answer = await service.post("/v1/jobs/batch", json=wanted, headers={"traceparent": trace})

    assert answer.status_code == 201, answer.text
    found = psql.execute("SELECT id, traceparent FROM scoring.scoring_jobs").fetchall()
    traces = {str(row["id"]): row["traceparent"] for row in found}
    assert [traces[one["id"]] for one in answer.json()["jobs"]] == [trace, own]


async def test_a_batch_has_no_key_of_its_own(service, tenants, psql):
    """A client that repeats a batch because of such a key would enqueue its jobs twice."""
    refused = await service.post("/v1/jobs/batch", json=[tenants.score()], headers={"Idempotency-Key": "night-7"})

    assert refused.status_code == 422
    assert refused.json()["errors"][0] == {
        "field": "Idempotency-Key",
        "rule": "is not for a batch",
        "value": "'night-7'",
        "remedy": "give each job an idempotency_key",
    }
    assert count(psql) == 0


async def test_another_type_of_body_is_refused(service):
    """The problem names the two that are read."""
    refused = await service.post("/v1/jobs/batch", content=b"a,b", headers={"Content-Type": "text/csv"})

    assert refused.status_code == 415
    assert refused.headers["accept"] == "application/json, application/x-ndjson"


async def test_a_batch_of_nothing_makes_nothing(service):
    """It is no error."""
    answer = await service.post("/v1/jobs/batch", json=[])

    assert (answer.status_code, answer.json()) == (201, {"jobs": [], "created": 0})
