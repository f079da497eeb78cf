"""Create ``runtime.approval_tokens``: links by which people decide what jobs wait for, and two functions for them.

Why: a person decides by a link in a mail, without a login. Who has the link may decide that wait once, and nobody else:
the gateway has no right on job tables, so the database itself looks at the token.
Previous release: still runs, it knows nothing of this table.

- only the hash of a token is kept, and no role can read it;
- ``runtime.read_approval`` tells what a link is about and what became of it; it changes nothing, however often it is
  called: mail scanners follow links;
- ``runtime.decide_by_token`` decides and marks the link in one transaction; the history names the recipient.

Revision ID: 0015
Revises: 0014
Created: 2026-11-30
"""

from pathlib import Path

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql" / "0015"


def upgrade() -> None:
    for part in ("tokens", "functions"):
        op.execute((SQL / f"{part}.sql").read_text())


def downgrade() -> None:
    op.execute("DROP FUNCTION runtime.decide_by_token(text, text, text)")
    op.execute("DROP FUNCTION runtime.read_approval(text)")
    op.execute("DROP TABLE runtime.approval_tokens")
