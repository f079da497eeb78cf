"""Create ``llm.prices``: what models cost by the operators' word, before the prices that providers publish.

Why: the table of published prices does not know a server of one's own or a contract of one's own, and a budget of money
refuses calls with a price that nobody knows.
Previous release: still runs. It knows nothing of this table.

Revision ID: 0024
Revises: 0023
Created: 2026-11-30
"""

from pathlib import Path

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql" / "0024"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for part in ("tables", "rights"):
        op.get_bind().exec_driver_sql((SQL / f"{part}.sql").read_text().replace("%", "%%"))


def downgrade() -> None:
    op.execute("DROP TABLE llm.prices")
