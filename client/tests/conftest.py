"""A real database of Gristmill: ``make client`` gives its URL in CLIENT_DATABASE_URL."""

import os
import uuid
from collections.abc import Iterator

import psycopg
import pytest

SERVICE = "client_tests_login"
PASSWORD = "made up for tests"


@pytest.fixture(scope="session")
def admin_url() -> str:
    """The URL of the owner of the tables."""
    return os.environ["CLIENT_DATABASE_URL"]


@pytest.fixture(scope="session")
def service_url(admin_url: str) -> str:
    """The URL of a service's login: a member of ``gristmill_service`` with no other right."""
    with psycopg.connect(admin_url, autocommit=True) as admin:
        admin.execute(f"DROP ROLE IF EXISTS {SERVICE}")
        admin.execute(f"CREATE ROLE {SERVICE} LOGIN PASSWORD '{PASSWORD}' IN ROLE gristmill_service")
    info = psycopg.conninfo.conninfo_to_dict(admin_url)
    return psycopg.conninfo.make_conninfo(**{**info, "user": SERVICE, "password": PASSWORD})


@pytest.fixture
def admin(admin_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(admin_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def user(admin: psycopg.Connection) -> uuid.UUID:
    return uuid.uuid4()


@pytest.fixture
def profile(admin: psycopg.Connection, user: uuid.UUID) -> uuid.UUID:
    """A profile of the user, to be scored."""
    row = admin.execute(
        "INSERT INTO scoring.profiles (name, owner_id) VALUES ('Ada', %s) RETURNING id", [user]
    ).fetchone()
    assert row is not None
    return row[0]
