"""Sessions of services that act for Alice, for Bob, or for another user."""

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.support.assessment_services import ALICE, BOB, Connection, Speak


@pytest.fixture
def speak(database_url: str) -> Iterator[Speak]:
    """Open sessions of services: each acts for one user, or for nobody, and commits each statement."""
    opened: list[Connection] = []

    def as_service(user: uuid.UUID | None) -> Connection:
        connection = psycopg.connect(database_url, autocommit=True, row_factory=dict_row)
        opened.append(connection)
        connection.execute("SET search_path = assessments")
        connection.execute("SELECT set_config('gristmill.user_id', %s, false)", [str(user or "")])
        connection.execute("SET ROLE gristmill_service")
        return connection

    yield as_service
    for connection in opened:
        connection.close()


@pytest.fixture
def alice(speak: Speak) -> Connection:
    return speak(ALICE)


@pytest.fixture
def bob(speak: Speak) -> Connection:
    return speak(BOB)
