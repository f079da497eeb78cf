"""A gateway without its servers: it says what is wrong, answers in time, and goes on by itself."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import psycopg
import pytest

from gristmill_testing.waiting import wait_until
from local.embedded import EmbeddedServers, throwaway_servers
from tests.conftest import create_database, make_template
from tests.support.gateway import LED
from tests.support.gateway_process import GatewayProcess, started_gateway

pytestmark = [pytest.mark.e2e, pytest.mark.faults]

# Much longer than any of them takes: no client may wait without an answer.
PATIENCE_SECONDS = 30.0


@pytest.fixture
def own_servers() -> Iterator[EmbeddedServers]:
    """Servers that only this test stops."""
    with throwaway_servers() as servers:
        yield servers


@pytest.fixture
def gateway(own_servers: EmbeddedServers, tmp_path: Path) -> Iterator[GatewayProcess]:
    """A gateway with a database of its own, in which a dispatcher leads."""
    url = own_servers.urls.database_url
    database_url = create_database(url, "gateway", template=make_template(url))
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(LED)
    with started_gateway(tmp_path, database_url, own_servers.urls.redis_url) as gateway:
        yield gateway


def red_checks(client: httpx2.Client) -> set[str]:
    """Return the names of the red checks of ``/readyz``."""
    answer = client.get("/readyz")
    return set() if answer.status_code == 200 else {error["field"] for error in answer.json()["errors"]}


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_postgres_away_and_back(own_servers: EmbeddedServers, gateway: GatewayProcess, how: str) -> None:
    """Requests get 503 with a time to come back; probes name the server; nothing is restarted by hand."""
    with gateway.client() as client:
        wait_until(lambda: red_checks(client) == set(), within=PATIENCE_SECONDS)
        getattr(own_servers, f"{how}_postgres")()

        away = client.get("/v1/stages")
        wait_until(lambda: red_checks(client) == {"postgres"}, within=PATIENCE_SECONDS)
        assert client.get("/healthz").status_code == 200

        own_servers.start_postgres()
        wait_until(lambda: client.get("/v1/stages").status_code == 200, within=PATIENCE_SECONDS)
        # After a crash no dispatcher leads: its row is not logged, and none runs here.
        wait_until(lambda: red_checks(client) <= {"dispatcher"}, within=PATIENCE_SECONDS)

    assert away.status_code == 503
    assert away.json()["type"] == "/problems/unavailable"
    assert int(away.headers["retry-after"]) > 0
    assert gateway.process.poll() is None
    unexpected = [line for line in gateway.lines() if line["event"] == "request_failed"]
    assert unexpected == []


def test_redis_away_and_back(own_servers: EmbeddedServers, gateway: GatewayProcess) -> None:
    """Requests are served: Postgres has the jobs. Each process holds keys to their limits by itself."""
    with gateway.client() as client:
        own_servers.kill_valkey()
        statuses = {client.get("/v1/stages").status_code for _ in range(20)}
        wait_until(lambda: red_checks(client) == {"redis"}, within=PATIENCE_SECONDS)

        own_servers.start_valkey()
        wait_until(lambda: red_checks(client) == set(), within=PATIENCE_SECONDS)

    assert statuses == {200}
    assert any(line["event"] == "rates_per_process" for line in gateway.lines())
