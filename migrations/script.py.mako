"""${message}

Why: …
Previous release: still runs on this schema / must be stopped first, because …

Rules of the house (keep this list out of the finished revision):
- expand, backfill in batches, contract: separate revisions;
- name constraints by the convention of models/base.py; import nothing from models;
- on a table with traffic: CREATE INDEX CONCURRENTLY inside `with op.get_context().autocommit_block():`,
  ADD CONSTRAINT … NOT VALID and VALIDATE in a later revision;
- lock_timeout is 5 s (migrations/env.py): a revision that cannot have its lock fails and is run again;
- a job table calls attach_lifecycle; its downgrade calls detach_lifecycle before dropping it;
- the downgrade works: CI runs up, down, up and `alembic check`.

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Created: ${create_date}
"""

from alembic import op
import sqlalchemy as sa
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
