"""The options of a new job are the same at every route that makes one."""

import json

import pytest

from tests.support.route_table import CSV

INSIDE = "http://127.0.0.1/hook?token=hidden"
OUTSIDE = "https://hooks.example/done?token=hidden"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SCOPES = ("jobs:write", "scoring", "operations")
ROUTES = ("jobs", "batch", "each", "score", "analytics", "ingest")
NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture
async def send(client, world):
    """Enqueue a job of alice by one of the routes, with options."""
    names = world.names
    header = await world.key("alice", *SCOPES)
    project = f"/v1/projects/{names['project']}"
    payload = {"profile_id": str(names["profile"]), "prompt": "Judge."}

    async def send(route: str, headers: dict[str, str], **options: str):
        headers, job = header | headers, {"stage": "scoring.score", "payload": payload, **options}
        match route:
            case "jobs":
                return await client.post("/v1/jobs", json=job, headers=headers)
            case "batch":
                return await client.post("/v1/jobs/batch", json=[job], headers=headers)
            case "each":
                content = json.dumps(job).encode()
                return await client.post("/v1/jobs/batch?mode=each", content=content, headers=headers | NDJSON)
            case "score":
                path = f"/v1/profiles/{names['profile']}/score"
                return await client.post(path, json={"prompt": "Judge."} | options, headers=headers)
            case "analytics":
                return await client.post(f"{project}/analytics", json={"type": "task"} | options, headers=headers)
            case _:
                form = {"type": "task", "mapping": '{"content": "prompt"}'} | options
                files = {"file": ("tasks.csv", CSV)}
                return await client.post(f"{project}/ingest", data=form, files=files, headers=headers)

    return send


def job_of(psql, answer):
    """Return what is kept of the options of the job of an answer."""
    found = answer.json()
    id_ = found["jobs"][0]["id"] if "jobs" in found else found["id"]
    tables = ("scoring.scoring_jobs", "operations.ingest_jobs", "operations.analytics_jobs")
    rows = " UNION ALL ".join(f"SELECT id, callback_url, traceparent FROM {table}" for table in tables)
    return psql.execute(f"SELECT callback_url, traceparent FROM ({rows}) AS jobs WHERE id = %s", [id_]).fetchone()


@pytest.mark.parametrize("route", ROUTES)
async def test_a_callback_inside_the_network_is_refused_and_not_shown(send, psql, route):
    """At once, not hours later when the job has ended. Nothing is enqueued."""
    before = psql.execute("SELECT count(*) AS n FROM runtime.jobs").fetchone()

    answer = await send(route, {}, callback_url=INSIDE)

    refused = answer.json()
    if route != "each":
        assert answer.status_code == 422, answer.text
    [error] = refused["errors"]
    assert error["field"] == ("0.callback_url" if route == "batch" else "callback_url")
    assert error["rule"].startswith("must not be an address that is ")
    assert "hidden" not in answer.text
    assert psql.execute("SELECT count(*) AS n FROM runtime.jobs").fetchone() == before


@pytest.mark.parametrize("route", ROUTES)
async def test_a_callback_and_a_trace_are_kept(send, psql, route):
    """The trace of a single request is that of its header; a batch has one for each job."""
    options = {"traceparent": TRACE} if route in {"batch", "each"} else {}

    answer = await send(route, {"traceparent": TRACE}, callback_url=OUTSIDE, **options)

    assert answer.status_code in {200, 201}, answer.text
    assert job_of(psql, answer) == {"callback_url": OUTSIDE, "traceparent": TRACE}


@pytest.mark.parametrize("trace", ["", "x", TRACE.upper(), TRACE + "-1", "00-" + "0" * 32 + TRACE[35:]])
async def test_a_wrong_trace_in_a_header_is_ignored(send, psql, trace):
    """As W3C wants it: a proxy in between may have made it."""
    answer = await send("jobs", {"traceparent": trace})

    assert answer.status_code == 201, answer.text
    assert job_of(psql, answer)["traceparent"] is None
