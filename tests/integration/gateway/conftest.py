"""One gateway process for all tests that do not stop it; a client of an app without a network."""

import io
from typing import Any

import pytest

from config.logging import configure
from tests.support.gateway import OTHER_TENANT, SERVICE, TENANT, open_client
from tests.support.gateway_jobs import Tenants
from tests.support.gateway_process import started_gateway
from tests.support.log_setup import restored_logging

# Short enough for a test, long enough for a slow machine's honest clients: no test depends on a margin.
HEADERS_SECONDS = BODY_SECONDS = SLOW_READER_SECONDS = 2.0


@pytest.fixture(scope="module")
def gateway(servers, clone_url, registry, tmp_path_factory):
    """A running gateway with short limits of time."""
    limits: dict[str, Any] = {
        "headers_seconds": HEADERS_SECONDS,
        "body_seconds": BODY_SECONDS,
        "slow_reader_seconds": SLOW_READER_SECONDS,
    }
    with started_gateway(tmp_path_factory.mktemp("gateway"), clone_url, servers.urls.redis_url, **limits) as gateway:
        yield gateway


@pytest.fixture
async def client(database_url, redis_url, registry):
    """An operator's client of an app without a network."""
    with restored_logging():
        configure("json", "ERROR", stream=io.StringIO())
        async with open_client(database_url, redis_url=redis_url) as client:
            yield client


@pytest.fixture
def tenants(psql):
    """Two tenants of the gateway, with a profile and a project each."""
    return Tenants(psql, TENANT, OTHER_TENANT)


@pytest.fixture
async def service(database_url, redis_url, registry, tenants):
    """A tenant's client of an app without a network."""
    async with open_client(database_url, SERVICE, redis_url=redis_url) as client:
        yield client
