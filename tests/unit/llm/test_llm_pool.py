"""Connections to a provider: the environment's proxies, and what a start costs."""

import subprocess
import sys

import pytest

from workers.llm.pool import proxy_for


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Start from an environment without proxies."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def test_proxies_of_the_environment_are_used(environment):
    """A machine that reaches the provider through a proxy only still reaches it."""
    environment.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    environment.setenv("NO_PROXY", "127.0.0.1,.internal.test")

    assert proxy_for("https://api.openai.com/v1") == "http://proxy.test:3128"
    assert proxy_for("https://llm.internal.test/v1") is None
    assert proxy_for("http://127.0.0.1:8080/v1") is None


def test_no_proxy_by_default():
    """Without such variables connections are direct."""
    assert proxy_for("https://api.openai.com/v1") is None


def test_openai_is_imported_only_for_a_configured_provider():
    """Commands and offline workers do not pay the second that its import costs."""
    code = "import sys, workers.llm.provider, workers.scoring.score_profile; sys.exit('openai' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
