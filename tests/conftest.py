"""One pair of real servers per session. ``database`` gives a test real commits, ``session`` an outer rollback.

Cloning a database takes as long as twenty tests, so tests that commit share one clone, which is emptied for each.
"""

import uuid
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from hypothesis import settings as hypothesis_settings
from psycopg import sql
from redis import Redis
from sqlalchemy import Connection, create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

import tests.support.proving.stages  # noqa: F401 - registers the proving stages
from gristmill_testing.database import empty_database
from local.embedded import EmbeddedServers, throwaway_servers
from tests.support.paths import ROOT
from tests.support.proving.schema import create as create_proving_tables
from workers.runtime.database import Database, libpq_url
from workers.runtime.handler.registry import Registry, discover

# Examples have no deadline, because a busy machine must not fail a property that holds.
hypothesis_settings.register_profile("untimed", deadline=None)
hypothesis_settings.load_profile("untimed")

TEMPLATE = "gristmill_template"
# Tests that start whole systems of processes.
WHOLE_SYSTEMS = (ROOT / "tests" / "e2e", ROOT / "tests" / "chaos" / "test_nemesis.py")
# Those that take minutes come first among them: otherwise one process would run them alone at the end.
LONG = ("test_nemesis.py", "test_quotas.py", "test_quota_of_tokens.py", "test_quota_of_composites.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run whole systems last. If several processes run the tests, the tests of a file stay together and in order."""

    def place(item: pytest.Item) -> int:
        if not any(item.path.is_relative_to(folder) for folder in WHOLE_SYSTEMS):
            return 0
        return 1 if item.path.name in LONG else 2

    items.sort(key=place)


@pytest.fixture(scope="session")
def servers() -> Iterator[EmbeddedServers]:
    """Real PostgreSQL and Valkey for the whole session. Their folders are deleted at its end."""
    with throwaway_servers() as servers:
        yield servers


@pytest.fixture(scope="session")
def registry() -> Registry:
    """All stages, with the proving stages."""
    return discover()


def sqlalchemy_url(url: str) -> str:
    """Return a libpq URL with the name of SQLAlchemy's driver."""
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def with_database(url: str, name: str) -> str:
    """Return ``url`` with another database's name."""
    return libpq_url(url).rsplit("/", 1)[0] + f"/{name}"


def alembic_config(**attributes: object) -> Config:
    """Return Alembic's configuration as ``gristmill migrate`` makes it, with a URL or a connection."""
    config = Config(ROOT / "alembic.ini")
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.attributes.update(attributes)
    return config


def migrate(url: str, *, to: str = "head") -> None:
    """Run Alembic on ``url`` up or down to a revision."""
    (command.downgrade if to == "base" else command.upgrade)(alembic_config(url=url), to)


def create_database(url: str, name: str, *, template: str = "template1") -> str:
    """Create a database on the server of ``url`` and return its own URL."""
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
    return with_database(url, name)


def drop_database(url: str, name: str) -> None:
    """Drop a database; end its connections."""
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def make_template(url: str) -> str:
    """Create a migrated database with the proving tables, to clone it; return its name."""
    template_url = create_database(url, TEMPLATE)
    migrate(template_url)
    engine = create_engine(sqlalchemy_url(template_url), poolclass=NullPool)
    with engine.begin() as connection:
        create_proving_tables(connection)
    return TEMPLATE


@pytest.fixture(scope="session")
def template(servers: EmbeddedServers) -> str:
    """The name of a database to clone. Nothing may connect to it."""
    return make_template(servers.urls.database_url)


@pytest.fixture(scope="session")
def clone_url(servers: EmbeddedServers, template: str) -> str:
    """The one clone that tests with commits use one after the other."""
    return create_database(servers.urls.database_url, "committed", template=template)


@pytest.fixture
def database_url(clone_url: str) -> str:
    """An empty database for this test. Connections of earlier tests are closed."""
    empty_database(clone_url)
    return clone_url


@pytest.fixture
def fresh_database_url(servers: EmbeddedServers, template: str) -> Iterator[str]:
    """A clone for a test that changes more than rows. It is dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield create_database(servers.urls.database_url, name, template=template)
    drop_database(servers.urls.database_url, name)


@pytest.fixture
def empty_database_url(servers: EmbeddedServers) -> Iterator[str]:
    """A database without any migration. It is dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield create_database(servers.urls.database_url, name)
    drop_database(servers.urls.database_url, name)


@pytest.fixture(scope="session")
def shared_database_url(servers: EmbeddedServers, template: str) -> str:
    """One clone for all tests that roll back their writes."""
    return create_database(servers.urls.database_url, "shared", template=template)


@pytest.fixture
async def session(shared_database_url: str) -> AsyncIterator[AsyncSession]:
    """A session inside an outer transaction that is rolled back. A test may commit, but no other session sees it."""
    engine = create_async_engine(sqlalchemy_url(shared_database_url), poolclass=NullPool)
    async with engine.connect() as connection:
        outer = await connection.begin()
        bound = AsyncSession(connection, expire_on_commit=False, join_transaction_mode="create_savepoint")
        async with bound as session:
            yield session
        await outer.rollback()


@pytest.fixture
def redis_url(servers: EmbeddedServers) -> Iterator[str]:
    """An empty Redis. It is emptied again afterwards."""
    url = servers.urls.redis_url
    with Redis.from_url(url) as redis:
        redis.flushall()
        yield url
        redis.flushall()


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    """A SQLAlchemy connection in autocommit, for set-up and queries."""
    engine = create_engine(sqlalchemy_url(database_url), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection


@pytest.fixture
def psql(database_url: str) -> "Iterator[psycopg.Connection[dict[str, object]]]":
    """A plain connection in autocommit, like in psql. It sets no actor."""
    with psycopg.connect(database_url, autocommit=True, row_factory=psycopg.rows.dict_row) as connection:
        yield connection


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The kernel's pools on the test's own database: real commits, several connections."""
    database = Database(database_url, changed_by="test")
    yield database
    await database.close()
