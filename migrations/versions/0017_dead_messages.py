"""Keep dead messages whole, and find those of one content.

Why: a message of more than 64 KiB could not be replayed, though the door takes 4 MiB. Each message of a content is kept
by itself; a list shows them as one, by the hash of their body.
Previous release: still runs. It cuts bodies as before, and does not write the generated column.

Revision ID: 0017
Revises: 0016
Created: 2026-11-30
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

CHECK = """ALTER TABLE runtime.dead_messages DROP CONSTRAINT ck_dead_messages_body,
  ADD CONSTRAINT ck_dead_messages_body CHECK (octet_length(body) <= {most} AND octet_length(body) <= size)"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(CHECK.format(most=4_194_304))
    op.add_column(
        "dead_messages",
        sa.Column("content", sa.LargeBinary, sa.Computed("sha256(coalesce(body, ''))", persisted=True)),
        schema="runtime",
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_column("dead_messages", "content", schema="runtime")
    op.execute("UPDATE runtime.dead_messages SET body = substring(body, 1, 65536) WHERE octet_length(body) > 65536")
    op.execute(CHECK.format(most=65_536))
