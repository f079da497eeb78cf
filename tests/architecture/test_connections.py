"""Every connection to Postgres is opened in the modules that pin the session's settings."""

import ast
from collections.abc import Iterator

import pytest

from tests.support.paths import ROOT

OURS = ("benchmarks", "cli", "config", "gateway", "gristmill_testing", "local", "migrations", "models", "workers")
# Other systems in the benchmarks. They connect as their own users do.
OTHER_SYSTEMS = ("benchmarks/naive.py", "benchmarks/gateway_role.py", "benchmarks/peers/")
PLACES = {"workers/runtime/connections.py", "workers/runtime/database.py"}
ENGINES = {"create_engine", "create_async_engine", "create_pool", "ConnectionPool", "AsyncConnectionPool"}
DRIVERS = {"psycopg", "psycopg2", "asyncpg", "Connection", "AsyncConnection"}


def openings(source: str) -> Iterator[str]:
    """Yield the source of every call that opens a connection."""
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
    return {name: path.read_text() for name, path in paths.items() if not name.startswith(OTHER_SYSTEMS)}


def test_no_other_module_opens_a_connection():
    """In a session without pinned settings, `ALTER ROLE … SET` and the environment decide them."""
    found = {name: list(openings(source)) for name, source in sources().items()}

    assert {name: calls for name, calls in found.items() if calls and name not in PLACES} == {}


def test_each_listed_place_opens_connections():
    """A place that opens none any more must be removed from the list."""
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
    """The search finds each of these calls."""
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
def test_other_calls_are_not_found(source):
    """Signals connect too, an engine takes connections from its pool, and HTTP has pools of its own."""
    assert not list(openings(source))
