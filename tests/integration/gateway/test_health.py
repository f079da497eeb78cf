"""Probes and metrics."""

import psycopg
import pytest

from tests.support.gateway import LED, OPERATOR, SERVICE, open_client

NOWHERE = "redis://127.0.0.1:1"


@pytest.fixture
def led(database_url):
    """A dispatcher leads for the next hour."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(LED)


async def test_a_gateway_with_everything_is_ready(client, led):
    """No key is needed; the answer names the checks."""
    answer = await client.get("/readyz", headers={"Authorization": ""})

    assert answer.status_code == 200, answer.text
    assert set(answer.json()["checks"]) == {"postgres", "redis", "migrations", "dispatcher"}


async def test_a_red_check_is_named_with_its_remedy(database_url, registry, led):
    """Redis away, schema too old."""
    async with open_client(
        database_url, redis_url=NOWHERE, check_schema=lambda _: "database is at 0001, this release needs 0002"
    ) as client:
        answer = await client.get("/readyz")

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    red = {one["field"]: one for one in answer.json()["errors"]}
    assert red["migrations"]["remedy"] == "run `gristmill migrate`"
    assert red["redis"]["rule"] == "does not answer"
    assert red.keys() == {"migrations", "redis"}


async def test_without_a_leading_dispatcher_it_is_not_ready(client):
    """Jobs would be accepted and not run."""
    answer = await client.get("/readyz")

    assert answer.status_code == 503
    assert [one["field"] for one in answer.json()["errors"]] == ["dispatcher"]


async def test_a_gateway_that_follows_no_jobs_any_more_is_not_ready(client, led):
    """Its streams and waits would stand still: a supervisor must start it again."""
    app = client._transport.app
    app.state.services.events._fail(RuntimeError("a bug"))

    answer = await client.get("/readyz")

    assert answer.status_code == 503
    assert [(one["field"], one["rule"]) for one in answer.json()["errors"]] == [("process", "follows no jobs any more")]


async def test_alive_needs_nothing(client):
    """A balancer must not kill a gateway because Postgres restarts."""
    assert (await client.get("/healthz", headers={"Authorization": ""})).json() == {"status": "alive"}


@pytest.mark.parametrize(
    ("key", "status"), [(OPERATOR, 200), ("metrics-token", 200), (SERVICE, 403), ("", 401), ("metrics-toke", 401)]
)
async def test_metrics_are_for_operators(database_url, redis_url, registry, key, status):
    """Routes and rates of everybody are nobody else's business."""
    async with open_client(database_url, redis_url=redis_url, metrics_token="metrics-token") as client:
        answer = await client.get("/metrics", headers={"Authorization": f"Bearer {key}"})

    assert answer.status_code == status


async def test_requests_are_counted_by_the_template_of_their_route(client):
    """A path of a client must not become a label: there are without end."""
    await client.get("/problems/invalid")
    for number in range(3):
        await client.get(f"/nothing/{number}")

    lines = (await client.get("/metrics")).text.splitlines()

    assert 'gristmill_http_requests_total{method="GET",route="/problems/{name}",status="200"} 1.0' in lines
    assert 'gristmill_http_requests_total{method="GET",route="unknown",status="404"} 3.0' in lines
    assert not [line for line in lines if "/nothing/" in line]


async def test_the_process_and_its_pools_are_measured(client):
    """Memory, open files and connections: what an operator looks at first."""
    lines = (await client.get("/metrics")).text

    for name in ("gristmill_database_connections", "gristmill_http_requests_queued", "process_resident_memory_bytes"):
        assert f"\n{name}" in lines
    assert 'gristmill_database_connections{pool="kernel",state="in_use"} 0.0' in lines


async def test_a_made_up_method_is_no_label(client):
    """Like a path."""
    await client.request("MADEUP", "/v1/stages")

    assert "MADEUP" not in (await client.get("/metrics")).text
