"""Create ``runtime.provider_pauses``: which providers of language models are away, since when, until when nobody asks.

Why: while a provider is away one call at a time asks it, whatever the number of worker processes, and a restart of a
worker does not forget since when it has been away.
Previous release: still runs, it knows nothing of this table.

Revision ID: 0010
Revises: 0009
Created: 2026-11-30
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE runtime.provider_pauses (
          provider text NOT NULL,
          since timestamptz NOT NULL,
          until timestamptz NOT NULL,
          probing_until timestamptz,
          reason text NOT NULL,
          CONSTRAINT pk_provider_pauses PRIMARY KEY (provider),
          CONSTRAINT ck_provider_pauses_times CHECK (since <= until AND isfinite(since) AND until < '10000-01-01'
            AND coalesce(probing_until, until) < '10000-01-01')
        );
        REVOKE ALL ON runtime.provider_pauses FROM PUBLIC;
        DO $$ BEGIN
          IF to_regrole('gristmill_worker') IS NOT NULL THEN
            GRANT SELECT, INSERT, UPDATE, DELETE ON runtime.provider_pauses TO gristmill_worker;
          END IF;
        END $$;
    """)


def downgrade() -> None:
    op.execute("DROP TABLE runtime.provider_pauses")
