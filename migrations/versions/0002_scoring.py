"""Create profile scoring: profiles, scoring jobs and the answers that identical jobs share.

Why: the first domain; its table is the seed's, with the lifecycle columns beside them.
Previous release: still runs, it knows nothing of this schema.

Where the seed's text is not SQL that does what it says, this is what it means:
- its policy ends in ``true``: here a profile has an owner and ``SET LOCAL gristmill.user_id`` decides;
- its rules name four states; cancelling needs a fifth, ``cancelled`` (docs/decisions/0002);
- ``id`` defaults to ``uuidv7()``, as random and half as expensive to index;
- "a valid OpenAI model identifier" is checked here by shape, and by the configured provider when the job runs;
- "retry_count cannot exceed 5" is a check against ``max_retries``, itself at most 5.

Revision ID: 0002
Revises: 0001
Created: 2026-11-21
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

from migrations.kernel.v1.lifecycle import JobTable, Step, attach_lifecycle, detach_lifecycle

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NOW = sa.func.now()
TIME = sa.DateTime(timezone=True)
NEW_ID = sa.text("uuidv7()")

SCORING_JOBS = JobTable(
    schema="scoring",
    table="scoring_jobs",
    steps=[Step(stage="scoring.score", ready="pending", running="processing", done="completed")],
    limit_column="profile_id",
)


def upgrade() -> None:
    op.execute("CREATE SCHEMA scoring")
    _profiles()
    _scoring_jobs()
    _answers()
    attach_lifecycle(SCORING_JOBS)
    op.execute(ENQUEUE_SCORE)
    for statement in GRANTS_AND_POLICIES:
        op.execute(statement)


def downgrade() -> None:
    detach_lifecycle(SCORING_JOBS)
    op.execute("DROP SCHEMA scoring CASCADE")


def _profiles() -> None:
    op.create_table(
        "profiles",
        sa.Column("id", sa.Uuid, nullable=False, server_default=NEW_ID),
        sa.Column("owner_id", sa.Uuid),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("attributes", pg.JSONB, nullable=False, server_default="{}"),
        sa.Column("created_at", TIME, nullable=False, server_default=NOW),
        sa.Column("updated_at", TIME, nullable=False, server_default=NOW),
        sa.PrimaryKeyConstraint("id", name="pk_profiles"),
        sa.CheckConstraint(r"name ~ '\S'", name="name"),
        schema="scoring",
    )
    op.create_index("idx_profiles_owner_id", "profiles", ["owner_id"], schema="scoring")


def _scoring_jobs() -> None:
    op.create_table(
        "scoring_jobs",
        sa.Column("id", sa.Uuid, nullable=False, server_default=NEW_ID),
        sa.Column("profile_id", sa.Uuid, nullable=False),
        sa.Column("status", sa.String(20), nullable=False, server_default="pending"),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("model_name", sa.String(50), nullable=False, server_default="gpt-3.5-turbo"),
        sa.Column("llm_response", pg.JSONB),
        sa.Column("parsed_score", pg.JSONB),
        sa.Column("error_message", sa.Text),
        sa.Column("retry_count", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", TIME, nullable=False, server_default=NOW),
        sa.Column("started_at", TIME),
        sa.Column("completed_at", TIME),
        sa.Column("updated_at", TIME, nullable=False, server_default=NOW),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("priority", sa.SmallInteger, nullable=False, server_default="5"),
        sa.Column("max_retries", sa.Integer, nullable=False, server_default="5"),
        sa.Column("due_at", TIME),
        sa.Column("timeout_seconds", sa.Integer),
        sa.Column("progress", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("dispatched_at", TIME),
        sa.Column("lease_owner", sa.Uuid),
        sa.Column("deadline_at", TIME),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("change_action", sa.String(20)),
        sa.Column("change_reason", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_scoring_jobs"),
        sa.ForeignKeyConstraint(
            ["profile_id"], ["scoring.profiles.id"], name="fk_scoring_jobs_profile_id_profiles", ondelete="CASCADE"
        ),
        sa.CheckConstraint(r"prompt ~ '\S'", name="prompt"),
        sa.CheckConstraint("model_name ~ '^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$'", name="model_name"),
        sa.CheckConstraint("max_retries BETWEEN 0 AND 5", name="max_retries"),
        schema="scoring",
        # Claims and settles rewrite every row twice: room on the page keeps the new version beside the old one.
        postgresql_with={"fillfactor": "50"},
    )
    indexes: dict[str, list[str | sa.TextClause]] = {
        "idx_scoring_jobs_profile_id": ["profile_id"],
        "idx_scoring_jobs_status": ["status"],
        "idx_scoring_jobs_created_at": [sa.text("created_at DESC")],
        "idx_scoring_jobs_status_updated": ["status", sa.text("updated_at DESC")],
    }
    for name, columns in indexes.items():
        op.create_index(name, "scoring_jobs", columns, schema="scoring")


def _answers() -> None:
    op.create_table(
        "answers",
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("job_id", sa.Uuid, nullable=False),
        sa.Column("job_version", sa.Integer, nullable=False),
        sa.Column("model", sa.Text),
        sa.Column("llm_response", pg.JSONB),
        sa.Column("parsed_score", pg.JSONB),
        sa.Column("claimed_at", TIME, nullable=False, server_default=NOW),
        sa.Column("answered_at", TIME),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_answers"),
        schema="scoring",
    )
    op.create_index("ix_answers_answered_at", "answers", ["answered_at"], schema="scoring")


ENQUEUE_SCORE = """
CREATE FUNCTION scoring.enqueue_score(
  p_profile_id uuid, p_prompt text, p_model_name text DEFAULT 'gpt-3.5-turbo', p_priority integer DEFAULT 5,
  p_due_at timestamptz DEFAULT NULL, p_idempotency_key text DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql AS $$
-- Enqueue one scoring job in the caller's transaction; a repeated key returns the first job.
DECLARE
  v_id uuid;
BEGIN
  INSERT INTO scoring.scoring_jobs (profile_id, prompt, model_name, priority, due_at, idempotency_key)
  VALUES (p_profile_id, p_prompt, p_model_name, p_priority, p_due_at, p_idempotency_key)
  ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING RETURNING id INTO v_id;
  IF v_id IS NULL THEN
    SELECT id INTO STRICT v_id FROM scoring.scoring_jobs WHERE idempotency_key = p_idempotency_key;
  END IF;
  RETURN v_id;
END $$
"""

OWNED = "owner_id = nullif(current_setting('gristmill.user_id', true), '')::uuid"

GRANTS_AND_POLICIES = (
    """
    DO $$ BEGIN
      IF to_regrole('gristmill_service') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA scoring TO gristmill_service;
        GRANT SELECT, INSERT, UPDATE, DELETE ON scoring.profiles TO gristmill_service;
        GRANT SELECT, INSERT, UPDATE ON scoring.scoring_jobs TO gristmill_service;
      END IF;
      IF to_regrole('gristmill_worker') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA scoring TO gristmill_worker;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA scoring TO gristmill_worker;
        -- BYPASSRLS is not inherited by members of the role; a policy is.
        CREATE POLICY profiles_workers ON scoring.profiles FOR ALL TO gristmill_worker USING (true);
        CREATE POLICY scoring_jobs_workers ON scoring.scoring_jobs FOR ALL TO gristmill_worker USING (true);
      END IF;
    END $$
    """,
    "ALTER TABLE scoring.profiles ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE scoring.scoring_jobs ENABLE ROW LEVEL SECURITY",
    f"CREATE POLICY profiles_access_policy ON scoring.profiles FOR ALL USING ({OWNED})",
    f"""CREATE POLICY scoring_jobs_access_policy ON scoring.scoring_jobs FOR ALL
        USING (profile_id IN (SELECT id FROM scoring.profiles WHERE {OWNED}))""",
)
