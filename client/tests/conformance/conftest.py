"""Each test runs four times: with both clients, against the gateway in memory and a real one."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from clients import KINDS
from worlds import InMemory, Real


@pytest.fixture(params=["memory", "real"])
def world(request):
    if request.param == "memory":
        yield InMemory()
        return
    if "CLIENT_GATEWAY" not in os.environ:
        pytest.skip("`make client` starts a real gateway")
    real = Real()
    yield real
    real.close()


@pytest.fixture(params=KINDS)
def connect(request, world):
    """Make a client with one of the keys of the world."""
    made = []

    def make(key="first", **options):
        made.append(KINDS[request.param](world.url, world.keys.get(key, key), transport=world.transport(), **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(connect):
    return connect()
