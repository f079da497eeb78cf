"""Let a service say the encoding and the number of lines of a file that it stores.

Why: the HTTP gateway acts as a service. It reads the whole file before it stores it, so it knows the encoding as well
as a worker does; without it, an ingestion guesses by the first megabyte, and damages a file whose first character of
another encoding comes later.
Previous release: still runs on this schema.

- ``uploads.encoding`` and ``"lineCount"`` may be inserted by ``gristmill_service``;
- both have a rule now: an encoding that is detected, a count that is not negative.

Revision ID: 0031
Revises: 0030
Created: 2026-11-30
"""

from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252")


def upgrade() -> None:
    known = ", ".join(f"'{name}'" for name in ENCODINGS)
    op.execute(f"""
        SET LOCAL lock_timeout = '5s';
        UPDATE operations.uploads SET encoding = NULL WHERE encoding NOT IN ({known});
        UPDATE operations.uploads SET "lineCount" = NULL WHERE "lineCount" < 0;
        ALTER TABLE operations.uploads
          ADD CONSTRAINT ck_uploads_encoding CHECK (encoding IN ({known})),
          ADD CONSTRAINT ck_uploads_lines CHECK ("lineCount" >= 0);
        DO $$ BEGIN
          IF to_regrole('gristmill_service') IS NOT NULL THEN
            GRANT INSERT (encoding, "lineCount") ON operations.uploads TO gristmill_service;
          END IF;
        END $$
    """)


def downgrade() -> None:
    op.execute("""
        SET LOCAL lock_timeout = '5s';
        ALTER TABLE operations.uploads DROP CONSTRAINT ck_uploads_encoding, DROP CONSTRAINT ck_uploads_lines;
        DO $$ BEGIN
          IF to_regrole('gristmill_service') IS NOT NULL THEN
            REVOKE INSERT (encoding, "lineCount") ON operations.uploads FROM gristmill_service;
          END IF;
        END $$
    """)
