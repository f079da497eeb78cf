"""Lead by a lease, verify who a service speaks for, and give each process a role with its own rights.

Why: whoever could connect could wait in the leader's advisory lock and stop dispatch; a service could name any user;
and every process used one login that may do everything.
Previous release: its workers and services still run. Its dispatchers cannot lead any more: the leader among them is
disconnected, and none of them can write the row that now holds the lease. Start dispatchers of this release.

The leader's row says until when it leads, under which term, and in which session. Strict mode is off until an operator
turns it on; docs/security.md explains it. HMAC-SHA-256 is made of ``sha256``, as the embedded PostgreSQL has no
pgcrypto: of each key only its two pads are kept.

Revision ID: 0007
Revises: 0006
Created: 2026-11-30
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

NOW = sa.func.now()
TIME = sa.DateTime(timezone=True)
SQL = Path(__file__).parents[1] / "sql" / "0007"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    _lease()
    _security_tables()
    for part in ("actor", "partitions", "rights"):
        op.execute((SQL / f"{part}.sql").read_text())


def downgrade() -> None:
    op.execute((SQL / "down.sql").read_text())
    for table in ("role_actors", "actor_keys", "security"):
        op.drop_table(table, schema="runtime")
    op.execute("DELETE FROM runtime.dispatcher")
    for column in ("term", "session_pid", "session_started", "expires_at"):
        op.drop_column("dispatcher", column, schema="runtime")
    op.execute("DROP SEQUENCE runtime.dispatcher_terms")


def _lease() -> None:
    op.execute("DELETE FROM runtime.dispatcher")
    op.add_column("dispatcher", sa.Column("term", sa.BigInteger, nullable=False), schema="runtime")
    op.add_column("dispatcher", sa.Column("session_pid", sa.Integer), schema="runtime")
    op.add_column("dispatcher", sa.Column("session_started", TIME), schema="runtime")
    op.add_column("dispatcher", sa.Column("expires_at", TIME, nullable=False), schema="runtime")
    # Logged, unlike the row: a term never comes back, whatever happens to the server.
    op.execute("CREATE SEQUENCE runtime.dispatcher_terms")
    # The key of the advisory lock by which the previous release leads.
    op.execute("""
        DO $$ BEGIN
          PERFORM pg_terminate_backend(pid) FROM pg_locks
            WHERE locktype = 'advisory' AND granted AND (classid::bigint << 32 | objid::bigint) = 113741093106689
              AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
        EXCEPTION WHEN insufficient_privilege THEN
          RAISE NOTICE 'stop the dispatchers of the previous release';
        END $$
    """)


def _security_tables() -> None:
    op.create_table(
        "security",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("strict", sa.Boolean, nullable=False),
        sa.Column("changed_at", TIME, nullable=False, server_default=NOW),
        sa.Column("changed_by", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_security"),
        sa.CheckConstraint("id = 1", name="one_row"),
        schema="runtime",
    )
    op.create_table(
        "actor_keys",
        sa.Column("id", sa.Uuid, nullable=False, server_default=sa.text("uuidv7()")),
        sa.Column("inner_pad", sa.LargeBinary, nullable=False),
        sa.Column("outer_pad", sa.LargeBinary, nullable=False),
        sa.Column("created_at", TIME, nullable=False, server_default=NOW),
        sa.Column("expires_at", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_actor_keys"),
        sa.CheckConstraint("length(inner_pad) = 64 AND length(outer_pad) = 64", name="pads"),
        schema="runtime",
    )
    op.create_table(
        "role_actors",
        sa.Column("role_name", sa.String(63), nullable=False),
        sa.Column("user_id", sa.Uuid, nullable=False),
        sa.Column("created_at", TIME, nullable=False, server_default=NOW),
        sa.PrimaryKeyConstraint("role_name", name="pk_role_actors"),
        schema="runtime",
    )
