"""Let no row be written that Postgres cannot send, and let one that is there fail alone.

Why: a number is stored by its digits and sent with all its zeros. A jsonb of 630 kB with 70,000 numbers like 1e-16383
is 1.1 GB of text: no client can read its row, and every list, claim and export that meets it fails as a whole.
Previous release: still runs. What it writes keeps within these bounds, or is refused.

The rules of 0008 bound the stored size of a document, these bound its text. They are rules of the domains, NOT VALID:
rows from before stay as they are (0008 says why).

Revision ID: 0018
Revises: 0017
Created: 2026-11-30
"""

from pathlib import Path

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql" / "0018"
# The most bytes of text, by domain: as many as the stored value may have.
MOST_BYTES = {"payload": 8 * 1024 * 1024, "document": 32 * 1024 * 1024}


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute((SQL / "documents.sql").read_text().replace(":", "\\:"))
    for domain, most in MOST_BYTES.items():
        op.execute(
            f"ALTER DOMAIN runtime.{domain} ADD CONSTRAINT text_at_most_{most >> 20}_mib"
            f" CHECK (octet_length(VALUE\\:\\:text) <= {most}) NOT VALID"
        )


def downgrade() -> None:
    for domain, most in MOST_BYTES.items():
        op.execute(f"ALTER DOMAIN runtime.{domain} DROP CONSTRAINT text_at_most_{most >> 20}_mib")
    op.execute("DROP FUNCTION runtime.readable(jsonb, integer)")
