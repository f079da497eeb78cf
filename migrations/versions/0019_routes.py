"""Create ``llm.providers`` and the routes to them: who answers calls of language models, and who else does.

Why: one provider for everything was chosen by the environment or one setting. Now each stage and project may have its
own, chat and embeddings apart, and a fixed path of others for when the first one cannot answer.
Previous release: still runs. It knows nothing of these tables: its calls go where the environment and the settings say.

- keys are encrypted by the application, and no role but workers and operators can read them;
- without any row everything goes on as before: ``environment`` and ``settings`` are providers that need no row.

Revision ID: 0019
Revises: 0018
Created: 2026-11-30
"""

from pathlib import Path

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql" / "0019"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for part in ("tables", "rights"):
        op.get_bind().exec_driver_sql((SQL / f"{part}.sql").read_text().replace("%", "%%"))


def downgrade() -> None:
    op.get_bind().exec_driver_sql((SQL / "down.sql").read_text().replace("%", "%%"))
