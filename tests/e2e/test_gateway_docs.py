"""The page of the interface in a real browser: it works without the internet and under its strict policy."""

import pytest

from tests.e2e.browser import chromium
from tests.support.gateway_process import started_gateway

pytestmark = [pytest.mark.e2e, pytest.mark.browser]


def test_the_page_shows_every_operation_and_asks_no_other_host(servers, clone_url, registry, tmp_path):
    """Swagger UI comes from the gateway itself; nothing that it needs is blocked."""
    with started_gateway(tmp_path, clone_url, servers.urls.redis_url) as gateway, chromium() as browser:
        browser.open(f"{gateway.url}/docs")
        browser.waits_for("/v1/stages")

        assert "List every stage with its counts" in browser.text()
        assert browser.hosts() == {"127.0.0.1"}
        assert browser.complaints() == []
