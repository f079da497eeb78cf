"""Say how a file is to be read, take files of other kinds than CSV, and tell of guidelines with pages without text.

Why: files come in encodings that must be named and in JSON, JSON Lines and Excel; an analysis that saw one page of ten
must say so.
Previous release: still runs on this schema; it does not know the options and reads every file as a CSV.

- ``ingest_jobs.options``: encoding, delimiter, quote and rows to skip, as far as somebody said them;
- a job's ``source`` begins with the kind of its file: ``csv:``, ``json:``, ``jsonl:`` or ``xlsx:``;
- ``guideline_passages.pages`` and ``"emptyPages"`` count a document's pages and those without text, in each of its
  rows, as ``of`` does; null where an older release wrote them;
- ``analytics_jobs.warnings`` is what its reader must know besides its verdicts.

Revision ID: 0011
Revises: 0010
Created: 2026-11-30
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        ALTER TABLE operations.ingest_jobs
          ADD COLUMN options jsonb NOT NULL DEFAULT '{}'
            CONSTRAINT ck_ingest_jobs_options CHECK (jsonb_typeof(options) = 'object'),
          DROP CONSTRAINT ck_ingest_jobs_source,
          -- So that a job whose file is gone is known from one that never had any.
          ADD CONSTRAINT ck_ingest_jobs_source
            CHECK (coalesce(source, '') ~ '^(csv|json|jsonl|xlsx):' OR "uploadId" IS NULL);
        ALTER TABLE operations.guideline_passages
          ADD COLUMN pages integer,
          ADD COLUMN "emptyPages" integer,
          ADD CONSTRAINT ck_guideline_passages_pages CHECK ("emptyPages" BETWEEN 0 AND pages);
        ALTER TABLE operations.analytics_jobs ADD COLUMN warnings jsonb;
        DO $$ BEGIN
          IF to_regrole('gristmill_service') IS NOT NULL THEN
            GRANT INSERT (options) ON operations.ingest_jobs TO gristmill_service;
          END IF;
        END $$
    """)


def downgrade() -> None:
    op.execute("""
        UPDATE operations.ingest_jobs SET source = left('csv:' || source, 512)
         WHERE "uploadId" IS NOT NULL AND source !~ '^csv:';
        ALTER TABLE operations.ingest_jobs
          DROP COLUMN options,
          DROP CONSTRAINT ck_ingest_jobs_source,
          ADD CONSTRAINT ck_ingest_jobs_source CHECK (coalesce(source, '') LIKE 'csv:%' OR "uploadId" IS NULL);
        ALTER TABLE operations.guideline_passages DROP COLUMN pages, DROP COLUMN "emptyPages";
        ALTER TABLE operations.analytics_jobs DROP COLUMN warnings;
    """)
