"""Create operations: projects, records, ingestion and analytics jobs, ratings, bonus windows, settings, users.

Why: files of tasks and feedback become clean, searchable, rated and analysed records.
Previous release: still runs, it knows nothing of this schema.

Columns bear the seed's mixed-case names, quoted, as its ORM makes them; only what the kernel adds has the kernel's.
Where the seed's text is not what Postgres needs, or leaves a question, this is what it means:
- CUIDs are ``uuidv7()``: sortable and collision-resistant, and what every other job here has; times have a zone;
- a UNIQUE constraint and an index on the same column are one index, under the seed's index name where it has one;
- ``auth.users`` is made where nobody else keeps it, and left alone where somebody does (Supabase);
- its trigger makes the profile in ``operations``, as this database gives each domain a schema;
- ``projects.ownerId`` may be null: what operators ingest on the command line belongs to nobody;
- ``embedding`` stays an array of floats, empty while it waits, and is indexed for pgvector as ``halfvec``: rows of
  several models and lengths share the column, a Postgres without pgvector searches exactly, and the index is half as
  large as one of ``vector``. ``embeddingModel`` says whose vector it is;
- a record is unique in its project by the SHA-256 of its content;
- a file waits in ``uploads`` and ``upload_parts`` until its job has read it (docs/decisions/0005);
- ``totalRecords`` of an ingestion is what was read so far, so that ``saved + skipped = total`` is a CHECK; ``progress``
  tells how much of the file that is;
- one Likert score per record and person, and one per record and model;
- ``data_records.ingestJobId`` is no foreign key: records outlive the job, which is pruned.

Revision ID: 0004
Revises: 0003
Created: 2026-11-22
"""

from pathlib import Path

from alembic import op

from migrations.kernel.v1.lifecycle import JobTable, Step, attach_lifecycle, detach_lifecycle

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql" / "0004"

INGEST_JOBS = JobTable(
    schema="operations",
    table="ingest_jobs",
    steps=[
        Step(stage="ingestion.ingest", ready="PENDING", running="PROCESSING", done="QUEUED_FOR_VEC"),
        Step(stage="vectorization.embed", ready="QUEUED_FOR_VEC", running="VECTORIZING", done="COMPLETED"),
    ],
    failed="FAILED",
    cancelled="CANCELLED",
    error_message="error",
    created_at='"createdAt"',
    updated_at='"updatedAt"',
)
ANALYTICS_JOBS = JobTable(
    schema="operations",
    table="analytics_jobs",
    steps=[Step(stage="analytics.align", ready="PENDING", running="PROCESSING", done="COMPLETED")],
    failed="FAILED",
    cancelled="CANCELLED",
    error_message="error",
    created_at='"createdAt"',
    updated_at='"updatedAt"',
)


def upgrade() -> None:
    op.execute((SQL / "tables.sql").read_text())
    attach_lifecycle(INGEST_JOBS)
    attach_lifecycle(ANALYTICS_JOBS)
    for part in ("vectors", "functions", "rights"):
        op.execute((SQL / f"{part}.sql").read_text())


def downgrade() -> None:
    detach_lifecycle(ANALYTICS_JOBS)
    detach_lifecycle(INGEST_JOBS)
    # The extension stays, and so do users that are not ours: somebody else may rely on them.
    op.execute("""
        DROP SCHEMA operations CASCADE;
        DO $$ BEGIN
          IF obj_description(to_regclass('auth.users'), 'pg_class') = 'made by gristmill' THEN
            DROP TABLE auth.users;
          END IF;
          IF obj_description(to_regnamespace('auth'), 'pg_namespace') = 'made by gristmill' THEN
            DROP SCHEMA auth;
          END IF;
        EXCEPTION WHEN dependent_objects_still_exist THEN
          RAISE NOTICE 'auth.users is used by others and stays';
        END $$
    """)
