"""Every connection to Postgres is opened in one place, where a session's meaning is pinned."""

import ast
from collections.abc import Iterator

import pytest

from tests.support.paths import ROOT

OURS = ("benchmarks", "cli", "config", "gateway", "gristmill_testing", "local", "migrations", "models", "workers")
# Other systems that ours is compared with: each connects as its own users do.
STRANGERS = ("benchmarks/naive.py", "benchmarks/peers/")
PLACES = {"workers/runtime/connections.py", "workers/runtime/database.py"}
ENGINES = {"create_engine", "create_async_engine", "create_pool", "ConnectionPool", "AsyncConnectionPool"}
DRIVERS = {"psycopg", "psycopg2", "asyncpg", "Connection", "AsyncConnection"}


def openings(source: str) -> Iterator[str]:
    """Yield every call that opens a connection, as it is written."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            match node.func:
                case ast.Attribute(value=ast.Name(id="httpcore2")):
                    continue  # a pool of HTTP connections
                case ast.Name(id=name) | ast.Attribute(attr=name) if name in ENGINES:
                    yield ast.unparse(node.func)
                case ast.Attribute(attr="connect", value=ast.Name(id=owner) | ast.Attribute(attr=owner)) if (
                    owner in DRIVERS
                ):
                    yield ast.unparse(node.func)
        elif isinstance(node, ast.ImportFrom) and node.module in DRIVERS:
            yield from (f"{node.module}.{alias.name}" for alias in node.names if alias.name == "connect")


def sources() -> dict[str, str]:
    """Return our modules by path."""
    paths = {path.relative_to(ROOT).as_posix(): path for room in OURS for path in (ROOT / room).rglob("*.py")}
    return {name: path.read_text() for name, path in paths.items() if not name.startswith(STRANGERS)}


def test_no_other_module_opens_a_connection():
    """What pins nothing is what `ALTER ROLE … SET` and the environment make of it."""
    found = {name: list(openings(source)) for name, source in sources().items()}

    assert {name: calls for name, calls in found.items() if calls and name not in PLACES} == {}


def test_the_places_are_those_that_open_any():
    """An exception that is needed no more goes."""
    found = sources()

    assert {name for name in PLACES if list(openings(found[name]))} == PLACES


@pytest.mark.parametrize(
    "source",
    [
        "import psycopg\npsycopg.connect(url)",
        "await psycopg.AsyncConnection.connect(url)",
        "AsyncConnection.connect(url)",
        "create_engine(url)",
        "sqlalchemy.ext.asyncio.create_async_engine(url)",
        "from psycopg import connect\nconnect(url)",
    ],
)
def test_each_way_to_open_one_is_found(source):
    """The search is no better than what it finds."""
    assert list(openings(source))


@pytest.mark.parametrize(
    "source",
    [
        "connect(url)",
        "signals.setup_logging.connect(leave)",
        "engine.connect()",
        "httpcore2.AsyncConnectionPool()",
    ],
)
def test_what_opens_none_is_not(source):
    """Signals connect too, an engine's connections come out of its pool, and HTTP has pools of its own."""
    assert not list(openings(source))
