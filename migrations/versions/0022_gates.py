"""Keep jobs in Postgres while their provider's limit, budget or outage keeps them back, and say so.

Why: such jobs were dispatched, claimed and snoozed again and again. Now the leading dispatcher leaves them where they
are, and other jobs pass.
Previous release: still runs. Its dispatchers know no gates; what they dispatch is snoozed as before.

- ``runtime.gates``: what the leader keeps back, by stage and by value of the stage's gate column;
- ``runtime.jobs`` says it as the reason why a job waits (``runtime.gate_told``);
- ``ix_scoring_jobs_gated``: the dispatcher passes a million held jobs of one model along it.

Revision ID: 0022
Revises: 0021
Created: 2026-11-30
"""

import re
from pathlib import Path

from alembic import op

from migrations.kernel.v3 import JobTable, Step, attach_gate, detach_gate

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql"
SCORING_JOBS = JobTable(
    schema="scoring",
    table="scoring_jobs",
    steps=[Step(stage="scoring.score", ready="pending", running="processing", done="completed")],
    limit_column="profile_id",
)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    # A build of the index that was interrupted lets this revision run again from here.
    _run("DROP TABLE IF EXISTS runtime.gates; DROP FUNCTION IF EXISTS runtime.gate_told(text, text) CASCADE")
    _run("ALTER TABLE runtime.lifecycles DROP COLUMN IF EXISTS gate_column")
    _run((SQL / "0022" / "gates.sql").read_text())
    attach_gate(SCORING_JOBS, "model_name")


def downgrade() -> None:
    detach_gate(SCORING_JOBS)
    found = re.search(
        r"CREATE OR REPLACE FUNCTION runtime.rebuild_jobs_view\(.*?\$\$.*?\$\$;",
        (SQL / "0013" / "functions.sql").read_text(),
        re.DOTALL,
    )
    assert found is not None
    _run(found[0])
    _run("SELECT runtime.rebuild_jobs_view()")
    _run("DROP FUNCTION runtime.gate_told(text, text); DROP TABLE runtime.gates")
    _run("ALTER TABLE runtime.lifecycles DROP COLUMN gate_column")


def _run(statements: str) -> None:
    """Run statements with nothing to fill in: neither their colons nor their percents are parameters."""
    op.get_bind().exec_driver_sql(statements.replace("%", "%%"))
