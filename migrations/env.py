"""Run Alembic: one migrating process at a time, bounded waits for locks, one transaction per revision.

It moves gristmill's own history or, if ``config.attributes`` hold a ``domain``, the history of that domain.

The caller hands a connection or a URL in ``config.attributes`` (``cli`` and the tests do); the ``alembic`` command
line has neither and reads the settings. SQLAlchemy's psycopg dialect serves both kinds of caller; a connection of an
async engine comes in through ``run_sync``.
"""

import time
from typing import Any

from alembic import context
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.util import CommandError
from sqlalchemy import Connection, pool, text
from sqlalchemy.dialects.postgresql import DOMAIN

import models
from migrations.kernel import v4
from models.domains import Domain, schemas_of
from workers.runtime.connections import PINS
from workers.runtime.database import pinned_engine

LOCK_KEY = 0x6772_6973_746D  # "gristm": any fixed number of our own
LOOK_SECONDS = 0.2
LOCK_TIMEOUT = "5s"
STATEMENT_TIMEOUT = "10min"
# How often the lock is asked for: an hour.
LOOKS = 18_000
HOLDERS = """
    SELECT l.pid, a.usename, pg_has_role(a.usesysid, current_user, 'MEMBER')
      FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
     WHERE l.locktype = 'advisory' AND l.granted AND (l.classid::bigint << 32 | l.objid::bigint) = :key
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""

VERSION_TABLE = "alembic_version"
# Whoever reads the position of gristmill's own history reads that of each domain too.
GRANT = f"""
    DO $$ DECLARE reader text; BEGIN
      FOR reader IN SELECT grantee::regrole::text FROM pg_class CROSS JOIN aclexplode(relacl)
                     WHERE pg_class.oid = 'public.{VERSION_TABLE}'::regclass AND grantee NOT IN (relowner, 0)
                       AND privilege_type = 'SELECT' LOOP
        EXECUTE format('GRANT SELECT ON public.%I TO %s', '{{table}}', reader);
      END LOOP;
    END $$"""

metadata = models.load_all()
domain: Domain | None = context.config.attributes.get("domain")
schemas = schemas_of(domain)


def ours(name: str | None, type_: str, _parents: Any) -> bool:
    """Look at the schemas of this history only; the default schema belongs to whoever else uses the database."""
    return type_ != "schema" or name in schemas


def compared(object_: Any, name: str | None, type_: str, reflected: bool, _compare_to: Any) -> bool:  # noqa: FBT001
    """Leave out other histories, and what a database makes by itself or its operator does.

    These are partitions by month and indexes by vector length.
    """
    if type_ == "table" and object_.schema not in schemas:
        return False
    made = {"table": ("transitions_", "calls_"), "index": ("ix_data_records_embedding_",)}.get(type_)
    return not (reflected and made and (name or "").startswith(made))


def differs(_context: Any, _inspected: Any, _declared: Any, inspected: Any, declared: Any) -> bool | None:
    """Take a domain for the type that it bounds, as the driver does; of all else Alembic knows more."""
    if isinstance(inspected, DOMAIN):
        return not isinstance(inspected.data_type, type(declared))
    return None


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
    _take_turn(connection)
    version_table = f"{VERSION_TABLE}_{domain.name}" if domain else VERSION_TABLE
    try:
        context.configure(
            connection=connection,
            target_metadata=metadata,
            include_schemas=True,
            include_name=ours,
            include_object=compared,
            version_table=version_table,
            version_table_schema="public",
            transaction_per_migration=True,
            compare_server_default=False,
            compare_type=differs,
        )
        with context.begin_transaction():
            context.run_migrations()
        if domain:
            connection.rollback()
            _bring_to_newest_kernel(connection)
            connection.execute(text(GRANT.format(table=version_table)))
            connection.commit()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": LOCK_KEY})
        connection.execute(text("RESET lock_timeout"))
        connection.execute(text("RESET statement_timeout"))
        connection.commit()


def _bring_to_newest_kernel(connection: Connection) -> None:
    """Give the job tables that the domain's revisions made with older helpers what the newest ones give."""
    if connection.scalar(text("SELECT to_regclass('runtime.notices') IS NOT NULL")):
        with Operations.context(MigrationContext.configure(connection)):
            v4.upgrade_tables()
            v4.validate_tables()
        connection.commit()
        with Operations.context(MigrationContext.configure(connection)):
            v4.build_list_indexes()
    connection.commit()


def _take_turn(connection: Connection) -> None:
    """Return once no other process migrates, with the lock of whoever does.

    Looks again instead of waiting within a statement: its snapshot would hold up the other's CREATE INDEX CONCURRENTLY,
    and that one's lock this, until Postgres ends one of them. Anybody who may connect could hold the lock: if that is a
    role that could not migrate, raise and name its session. It is a session's lock, not a transaction's: revisions with
    an autocommit block would lose the latter halfway.
    """
    for _ in range(LOOKS):
        taken = connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": LOCK_KEY})
        holders = [] if taken else connection.execute(text(HOLDERS), {"key": LOCK_KEY}).all()
        connection.commit()
        if taken:
            return
        if strangers := [f"process {pid} of role {role}" for pid, role, migrates in holders if not migrates]:
            raise CommandError(
                f"the migrations' lock is held by {', '.join(strangers)}, which cannot migrate: end that session with "
                "pg_terminate_backend, then run this again"
            )
        time.sleep(LOOK_SECONDS)
    raise CommandError("another migration has not ended for an hour; look at pg_stat_activity, then run this again")


def pin(connection: Connection) -> None:
    """Have a session that the caller opened mean what ours mean."""
    for name, value in PINS.items():
        connection.execute(text("SELECT set_config(:name, :value, false)"), {"name": name, "value": value})
    connection.commit()


def main() -> None:
    if context.is_offline_mode():
        raise SystemExit("offline mode is not supported: revisions read the database to rebuild runtime.jobs")
    connection: Connection | None = context.config.attributes.get("connection")
    if connection is not None:
        pin(connection)
        migrate(connection)
        return
    with pinned_engine(database_url(), poolclass=pool.NullPool).connect() as fresh:
        migrate(fresh)


main()
