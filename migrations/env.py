"""Run Alembic: one migrating process at a time, bounded waits for locks, one transaction per revision.

The caller hands a connection or a URL in ``config.attributes`` (``cli`` and the tests do); the ``alembic`` command
line has neither and reads the settings. SQLAlchemy's psycopg dialect serves both kinds of caller; a connection of an
async engine comes in through ``run_sync``.
"""

import time
from typing import Any

from alembic import context
from sqlalchemy import Connection, create_engine, make_url, pool, text

import models

LOCK_KEY = 0x6772_6973_746D  # "gristm": any fixed number of our own
LOOK_SECONDS = 0.2
LOCK_TIMEOUT = "5s"
STATEMENT_TIMEOUT = "10min"

metadata = models.load_all()


def ours(name: str | None, type_: str, _parents: Any) -> bool:
    """Look at our schemas only; the default schema belongs to whoever else uses the database."""
    return type_ != "schema" or name in {table.schema for table in metadata.tables.values()}


def compared(_object: Any, name: str | None, type_: str, reflected: bool, _compare_to: Any) -> bool:  # noqa: FBT001
    """Leave out what a database makes by itself or its operator does: partitions by month, indexes by vector length."""
    made = {"table": "transitions_", "index": "ix_data_records_embedding_"}.get(type_)
    return not (reflected and made and (name or "").startswith(made))


def database_url() -> str:
    """Return the URL handed in, else the one of the settings."""
    if url := context.config.attributes.get("url"):
        return str(url)
    from config.settings import load  # noqa: PLC0415 - only the bare `alembic` command line gets here

    url = load().database_url
    if url is None:
        raise SystemExit("DATABASE_URL must be set for the alembic command line; `gristmill migrate` needs none")
    return url.get_secret_value()


def migrate(connection: Connection) -> None:
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.execute(text(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'"))
    # A session lock, not a transaction's: revisions with an autocommit block would lose the latter halfway.
    take_turn(connection)
    try:
        context.configure(
            connection=connection,
            target_metadata=metadata,
            include_schemas=True,
            include_name=ours,
            include_object=compared,
            version_table="alembic_version",
            version_table_schema="public",
            transaction_per_migration=True,
            compare_server_default=False,
        )
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": LOCK_KEY})
        connection.execute(text("RESET lock_timeout"))
        connection.execute(text("RESET statement_timeout"))
        connection.commit()


def take_turn(connection: Connection) -> None:
    """Return once no other process migrates. Looks again instead of waiting within a statement: its snapshot would

    hold up the other's CREATE INDEX CONCURRENTLY, and that one's lock this, until Postgres ends one of them.
    """
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": LOCK_KEY}):
        connection.commit()
        time.sleep(LOOK_SECONDS)
    connection.commit()


def main() -> None:
    if context.is_offline_mode():
        raise SystemExit("offline mode is not supported: revisions read the database to rebuild runtime.jobs")
    connection: Connection | None = context.config.attributes.get("connection")
    if connection is not None:
        migrate(connection)
        return
    url = make_url(database_url()).set(drivername="postgresql+psycopg")
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as fresh:
        migrate(fresh)


main()
