"""Services that act for different users in one database, for tests of the assessment store in SQL.

Each session has the role ``gristmill_service``. Its fixtures: ``tests/integration/assessment/conftest.py``.
"""

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

ALICE, BOB = uuid.UUID(int=0xA11CE), uuid.UUID(int=0xB0B)
RUNS_PER_RACE = 20

Connection = psycopg.Connection[dict[str, Any]]
Speak = Callable[[uuid.UUID | None], Connection]


def one(connection: Connection, statement: str, *values: object) -> Any:
    row = connection.execute(statement, values or None).fetchone()
    return next(iter(row.values())) if row else None


def create(connection: Connection, name: str = "a-1", /, **request: object) -> uuid.UUID:
    created: uuid.UUID = one(connection, "SELECT create_assessment(%s, %s)", name, Jsonb(request))
    return created


def create_everywhere(connection: Connection, name: str = "a-1") -> uuid.UUID:
    """Create an assessment with a cached state and a measurement."""
    job_id = create(connection, name, secret=name)
    connection.execute('SELECT put_cached_state(%s, \'{"state": "pending"}\', 600)', [name])
    connection.execute(
        "INSERT INTO assessment_metrics (assessment_id, metric_type, metric_value) VALUES (%s, 'tokens', 9)", [name]
    )
    return job_id


def finish(connection: Connection, name: str = "a-1") -> None:
    connection.execute("SELECT update_assessment_state(%s, 'processing', 1)", [name])
    connection.execute("SELECT update_assessment_state(%s, 'failed', 2, p_error_message => 'boom')", [name])


@contextmanager
def refused(error: type[psycopg.Error], line: str = "") -> Iterator[None]:
    with pytest.raises(error) as raised:
        yield
    assert line in str(raised.value.diag.message_primary)


def run_together(*actions: Callable[[], object]) -> list[object]:
    """Run the actions at once, each in its own thread; return the result or the error of each."""
    start = threading.Barrier(len(actions))
    results: list[object] = [None] * len(actions)

    def run(place: int) -> None:
        start.wait(timeout=30)
        try:
            results[place] = actions[place]()
        except psycopg.Error as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return results
