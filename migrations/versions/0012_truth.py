"""Names by one rule, settings that hold no secret, records without what was said of other content, dated changes.

Why: what is shown must be true. A name could look like another or like nothing, a key could lie in the clear under a
misspelt name, a record kept the vector and the verdict of a content it no longer had, and some tables kept no time of
their last change. Workers say which version and provider they run with, and failing attempts are counted by an index.
Previous release: still runs. It writes no name, setting or record that is refused here, unless a person asks it to.

- the rule of names is a trigger and no CHECK: a CHECK would refuse every change of a row that an older release let in,
  and a job with a key such as ``'k '`` could not be claimed any more;
- the index of attempts holds what failed and what ended a step that is not the last: few rows, and none of a job that
  went well at once. Made partition by partition, without holding up who writes history.

Revision ID: 0012
Revises: 0011
Created: 2026-11-30
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

from migrations.indexes import build, build_on_partitions, outside_transactions
from migrations.kernel.v2 import JobTable, unsuccessful_index

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql" / "0012"
JOB_TABLES = (
    JobTable(schema="scoring", table="scoring_jobs", steps=[]),
    JobTable(schema="assessments", table="assessment_states", steps=[], status="state", status_is_enum=True),
    JobTable(schema="operations", table="ingest_jobs", steps=[], failed="FAILED", cancelled="CANCELLED"),
    JobTable(schema="operations", table="analytics_jobs", steps=[], failed="FAILED", cancelled="CANCELLED"),
)
ATTEMPTS = """(stage, created_at) WHERE change_action IN ('retry', 'fail', 'rescue')
    OR (change_action = 'complete' AND lower(new_state::text) <> 'completed')"""


def upgrade() -> None:
    # The indexes first: where one of them cannot be built, nothing else has been done, and the revision is run again.
    with outside_transactions():
        for table in JOB_TABLES:
            _, _, on = unsuccessful_index(table, concurrently=True).partition(" ON ")
            build(f"{table.schema}.ix_{table.table}_unsuccessful", on)
        build_on_partitions("runtime.transitions", "ix_transitions_attempts", ATTEMPTS)
    for part in ("names", "settings", "records", "times"):
        op.execute((SQL / f"{part}.sql").read_text())
    op.add_column("workers", sa.Column("version", sa.String(40)), schema="runtime")
    op.add_column("workers", sa.Column("provider", pg.JSONB), schema="runtime")


def downgrade() -> None:
    op.execute("DROP INDEX runtime.ix_transitions_attempts")
    for table in JOB_TABLES:
        op.execute(f"DROP INDEX {table.schema}.ix_{table.table}_unsuccessful")
    op.drop_column("workers", "provider", schema="runtime")
    op.drop_column("workers", "version", schema="runtime")
    op.execute("DROP FUNCTION runtime.touch() CASCADE")
    op.execute("DROP FUNCTION operations.forget_old_ratings() CASCADE")
    op.execute("DROP FUNCTION operations.forget_old_content() CASCADE")
    op.execute(SETTINGS_OF_0004)
    op.execute("DROP FUNCTION operations.looks_secret(text)")
    op.execute("DROP FUNCTION runtime.refuse_name() CASCADE")
    op.execute("DROP FUNCTION runtime.is_name(text, integer)")


SETTINGS_OF_0004 = r"""
    ALTER TABLE operations.system_settings
      DROP CONSTRAINT ck_system_settings_key,
      DROP CONSTRAINT ck_system_settings_description,
      DROP CONSTRAINT ck_system_settings_value,
      ADD CONSTRAINT ck_system_settings_value CHECK (CASE
        WHEN key = 'ai_provider' THEN value IN ('lmstudio', 'openrouter', 'openai', 'offline')
        WHEN key = 'ai_host' THEN value ~ '^https?://[^/@]+(/[^@]*)?$'
        WHEN key IN ('openrouter_key', 'openai_key') THEN value LIKE 'gAAAA%'
        ELSE value ~ '\S' END)
"""
