"""Create ``llm.answers``: every paid answer is kept and shared. ``scoring.answers`` becomes part of it.

Why: a run that was snoozed, killed or late asked everything again, and each time it was paid for. What was answered is
now kept in the transaction of its row in the ledger. The next run of the job finds it, and so do identical questions
of the same owner if their stage shares answers.
Previous release: its dispatcher, beat and other workers still run. Its workers of ``scoring.score`` do not: they read
and write ``scoring.answers``, which is gone. Their jobs are retried; stop these workers first.

- ``llm.flights`` has the questions that may be shared and that a run asks now: exactly one run asks;
- the answers of a deleted job are deleted with it, by a trigger of every job table;
- answers are found by the owner, too: nothing is shared between owners, as it was in ``scoring.answers``.

Revision ID: 0021
Revises: 0020
Created: 2026-11-30
"""

from pathlib import Path

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql" / "0021"
PARTS = ("tables", "functions", "carry", "rights")


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for part in PARTS:
        op.get_bind().exec_driver_sql((SQL / f"{part}.sql").read_text().replace("%", "%%"))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.get_bind().exec_driver_sql((SQL / "down.sql").read_text().replace("%", "%%"))
