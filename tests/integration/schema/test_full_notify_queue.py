"""A full NOTIFY queue stops no write: guards notify only while there is room, and every listener also polls."""

import uuid
from collections.abc import Iterator
from itertools import count
from typing import Any

import psycopg
import pytest

from local.embedded import throwaway_servers
from tests.conftest import make_template, with_database

NOTIFIES = """
    SELECT p.oid::regprocedure::text AS name, p.prosrc LIKE '%pg_notification_queue_usage() %' AS looks
      FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
     WHERE n.nspname NOT LIKE 'pg\\_%' AND p.prosrc LIKE '%pg_notify(%' ORDER BY 1"""


def test_every_function_that_notifies_looks_for_room_before(database_url):
    """Read from the catalogue, so guards of new tables are included."""
    with psycopg.connect(database_url) as connection:
        found = connection.execute(NOTIFIES.encode()).fetchall()

    assert len(found) > 10
    assert [name for name, looks in found if not looks] == []


@pytest.fixture
def crowded() -> Iterator[psycopg.Connection[Any]]:
    """A server with the smallest possible NOTIFY queue, which is full because a listener stays in a transaction."""
    with throwaway_servers() as servers:
        with psycopg.connect(servers.urls.database_url, autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET max_notify_queue_pages = 64")
        servers.stop()
        url = with_database(servers.start().database_url, make_template(servers.urls.database_url))
        with psycopg.connect(url, autocommit=True) as sleeper, psycopg.connect(url, autocommit=True) as session:
            sleeper.execute("LISTEN anything")
            sleeper.execute("BEGIN")
            sleeper.execute("SELECT 1")
            with pytest.raises(psycopg.Error, match="too many notifications"):
                fill(session)
            yield session


def fill(session: "psycopg.Connection[Any]") -> None:
    for n in count():
        session.execute("SELECT pg_notify('anything', %s || repeat('x', 7000))", [str(n)])


def test_jobs_are_enqueued_claimed_cancelled_and_ended_though_the_queue_is_full(crowded):
    """This covers all three channels: for the dispatcher, for followers, and for the worker that must stop."""
    crowded.execute(
        "INSERT INTO runtime.dispatcher (id, term, leader, listening, expires_at)"
        " VALUES (1, 1, 'd', true, now() + interval '1 minute')"
    )
    worker = uuid.uuid4()
    crowded.execute(
        "INSERT INTO runtime.workers (id, name, queues, slots, lease_seconds) VALUES (%s, 'w', '{proving}', 1, 30)",
        [worker],
    )

    row = crowded.execute("INSERT INTO proving.plain_jobs DEFAULT VALUES RETURNING id").fetchone()
    assert row is not None
    crowded.execute("UPDATE proving.plain_jobs SET dispatched_at = now() WHERE id = %s", row)
    crowded.execute(
        "UPDATE proving.plain_jobs SET status = 'processing', version = version + 1, lease_owner = %s,"
        " started_at = now(), deadline_at = now() + interval '1 minute' WHERE id = %s",
        [worker, *row],
    )

    assert crowded.execute("SELECT runtime.cancel(%s, 'full')", row).fetchone() == (True,)
    assert crowded.execute("SELECT status FROM proving.plain_jobs").fetchone() == ("cancelled",)
