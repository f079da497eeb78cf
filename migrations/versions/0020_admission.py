"""Create limits, cooldowns and budgets of model calls, and ``llm.calls``: one row for every call.

Why: calls cost money and are refused if they come too fast. All processes admit them together, against the same rows
and by the clock of the database. What a call may use is reserved before it is made and corrected afterwards.
Previous release: still runs. It knows nothing of these tables, and its calls are neither admitted nor counted.

- ``llm.admit`` reserves many calls in one statement, each in all of its limits and budgets or in none;
- ``llm.settle_calls`` records once per call what became of it; ``llm.orphan_calls`` gives up what a dead process left;
- ``llm.calls`` is partitioned by month, like ``runtime.transitions``;
- the totals of budgets are maintained by the same statements; ``llm.budget_differences`` shows where they are wrong.

Revision ID: 0020
Revises: 0019
Created: 2026-11-30
"""

from pathlib import Path

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql" / "0020"
PARTS = ("tables", "partitions", "rules", "recounts", "admit", "settle", "ask", "rights")


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for part in PARTS:
        op.get_bind().exec_driver_sql((SQL / f"{part}.sql").read_text().replace("%", "%%"))


def downgrade() -> None:
    op.get_bind().exec_driver_sql((SQL / "down.sql").read_text().replace("%", "%%"))
