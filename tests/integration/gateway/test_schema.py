"""Made-up requests against a real gateway: no answer contradicts the description, and none is a failure of ours."""

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.support.gateway import LED, OPERATOR
from tests.support.gateway_process import started_gateway

SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"
MAX_EXAMPLES = 15


@pytest.fixture
def gateway(servers, database_url, registry, tmp_path):
    """A gateway with everything it needs: a dispatcher leads for the next hour."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(LED)
    with started_gateway(tmp_path, database_url, servers.urls.redis_url) as gateway:
        yield gateway


def test_every_operation_keeps_its_description(gateway, tmp_path: Path):
    """All checks of Schemathesis on every route that is described, with an operator's key."""
    run = subprocess.run(
        [
            *(SCHEMATHESIS, "run", f"{gateway.url}/openapi.json", "--checks", "all", "--no-color"),
            *("--header", f"Authorization: Bearer {OPERATOR}", "--max-examples", str(MAX_EXAMPLES)),
            *("--exclude-path-regex", "^/test/"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 selected" not in run.stdout
