"""A service that enqueues in its own transaction, for tests that end its process there."""

from sqlalchemy import create_engine, make_url
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from workers.runtime.enqueue import enqueue


def call(database_url: str, *, key: str) -> int:
    """Enqueue one job of ``proving.plain`` under ``key`` and commit; return the exit code."""
    engine = create_engine(make_url(database_url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    with Session(engine) as session, session.begin():
        enqueue(session, "proving.plain", {"act": "write"}, idempotency_key=key)
    return 0
