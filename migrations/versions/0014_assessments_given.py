"""Let an operator give an assessment that nobody owns to a user.

Why: what existed before assessments had owners, and what operators create for nobody, could be given to somebody only
with the guard switched off. Now ``assessments.give_assessment`` does it, and the guard allows it.
Previous release: still runs. It gives nothing to anybody.

The guard of ``assessment_states`` gets one more case. The owner may change from null to a user in a statement of a
trusted role (an operator, a worker, the owner of the tables), with a version that grows by one, if nothing else of the
job's facts changes and the job does not run. A job that has ended may be given too. Each gift is a transition with the
action ``give``. The case is added to the function as it is at this revision, whichever generation of the kernel's
helpers made it. A later revision that renews the guard of this table must add it again: a test gives an assessment on
the newest schema.

Revision ID: 0014
Revises: 0012
Created: 2026-11-30
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0012"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql" / "0014"
GUARD = "assessments.guard_assessment_states_update"
# The rule before the case: it still holds for a gift.
RULE_BEFORE = "format('its version must grow by one, got %s after %s', n.version, o.version))"
CASE = """
        WHEN o.owner_id IS NULL AND n.owner_id IS NOT NULL AND n.state = o.state AND o.state <> 'processing'
          AND (n.id, n.created_at, n.retry_count) = (o.id, o.created_at, o.retry_count)
          AND n.idempotency_key IS NOT DISTINCT FROM o.idempotency_key AND runtime.is_trusted()
        THEN n.version"""


def upgrade() -> None:
    definition = _guard()
    if definition.count(RULE_BEFORE) != 1:
        raise RuntimeError(f"{GUARD} must have the rule of versions once: {RULE_BEFORE}")
    op.execute(definition.replace(RULE_BEFORE, RULE_BEFORE + CASE))
    op.execute((SQL / "give.sql").read_text())


def downgrade() -> None:
    op.execute("DROP FUNCTION assessments.give_assessment(varchar, uuid)")
    op.execute(_guard().replace(CASE, ""))


def _guard() -> str:
    """Return the statement that makes the guard as it is now."""
    asked = sa.text("SELECT pg_get_functiondef(CAST(:name AS regproc))")
    return str(op.get_bind().execute(asked, {"name": GUARD}).scalar_one())
