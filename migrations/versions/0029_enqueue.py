"""Let services enqueue any open stage in SQL (``runtime.enqueue``), and let a key be used again after a failed end.

Why: each stage had a function of its own or none, and a key was spent for ever by a job that failed.
Previous release: still runs. It knows no other use of a repeated key than to return the first job.

- ``runtime.stages.sql_door``: what the database checks of the payload of a stage that is open to SQL;
- ``runtime.repeat_jobs``: the rule of repeated keys, once for the Python door and the SQL door;
- the guard of every job table lets a job that ended without success lose its key (``runtime.let_keys_go``).

Revision ID: 0029
Revises: 0028
Created: 2026-11-30
"""

import json
import re
from pathlib import Path

from alembic import op

from migrations.kernel.v5 import open_to_sql

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for part in ("keys", "door"):
        _run((SQL / "0029" / f"{part}.sql").read_text())
    for stage, door in json.loads((SQL / "0029" / "stages.json").read_text()).items():
        open_to_sql(stage, door)
    for part in ("older", "rights"):
        _run((SQL / "0029" / f"{part}.sql").read_text())


def downgrade() -> None:
    _run(_as_it_was("0005/scoring.sql", "scoring.enqueue_score"))
    _run(_as_it_was("0016/enqueue.sql", "operations.enqueue_analytics"))
    _run((SQL / "0029" / "down.sql").read_text())


def _run(statements: str) -> None:
    """Run statements with nothing to fill in: neither their colons nor their percents are parameters."""
    op.get_bind().exec_driver_sql(statements.replace("%", "%%"))


def _as_it_was(file: str, name: str) -> str:
    """Return the statement by which an earlier revision made a function, to be run over today's."""
    pattern = rf"CREATE OR REPLACE FUNCTION {re.escape(name)}\(.*?\$\$.*?\$\$;"
    found = re.search(pattern, (SQL / file).read_text(), re.DOTALL)
    assert found is not None
    return found[0]
