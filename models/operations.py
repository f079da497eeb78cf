"""Operations: projects, their records, the jobs that ingest and analyse them, ratings, windows. Schema ``operations``.

Columns are named as the seed names them, which quotes its mixed case; only what the kernel adds has the kernel's names.
"""

from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    REAL,
    BigInteger,
    CheckConstraint,
    Computed,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, ENUM
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Expiry
from models.lifecycle import Job, Lifecycle, Step, ended_in, kernel_indexes

SCHEMA = "operations"
USER_ROLES = ("PENDING", "USER", "MANAGER", "ADMIN")
RECORD_TYPES = ("TASK", "FEEDBACK")
RECORD_CATEGORIES = ("TOP_10", "BOTTOM_10")
# Whose ratings are a model's: `llmModel` says which.
LLM_USER = "00000000-0000-0000-0000-000000000000"
RETENTION = timedelta(days=90)

INGESTION = Lifecycle(
    steps=(
        Step("ingestion.ingest", ready="PENDING", running="PROCESSING", done="QUEUED_FOR_VEC"),
        Step("vectorization.embed", ready="QUEUED_FOR_VEC", running="VECTORIZING", done="COMPLETED"),
    ),
    failed="FAILED",
    cancelled="CANCELLED",
    retention=RETENTION,
)
ANALYTICS = Lifecycle(
    steps=(Step("analytics.align", ready="PENDING", running="PROCESSING", done="COMPLETED"),),
    failed="FAILED",
    cancelled="CANCELLED",
    retention=RETENTION,
)


def _enum(name: str, values: tuple[str, ...]) -> ENUM:
    return ENUM(*values, name=name, schema=SCHEMA, create_type=False)


def _created() -> Mapped[datetime]:
    return mapped_column("createdAt", server_default=func.now())


def _updated() -> Mapped[datetime]:
    return mapped_column("updatedAt", server_default=func.now())


def _id() -> Mapped[UUID]:
    """Return a primary key that sorts by time, which is what the seed's CUID is for."""
    return mapped_column(primary_key=True, server_default=text("uuidv7()"))


def _project() -> Mapped[UUID]:
    return mapped_column("projectId", ForeignKey(f"{SCHEMA}.projects.id", ondelete="CASCADE"))


class AuthUser(Base):
    """Who can sign in. Where Supabase keeps its own ``auth.users``, that one is used and left as it is."""

    __tablename__ = "users"
    __table_args__ = ({"schema": "auth", "comment": "made by gristmill"},)  # so that a downgrade knows its own

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    email: Mapped[str] = mapped_column(String(255), unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class UserProfile(Base):
    """What a user may do here. A trigger makes one, PENDING, for each new user."""

    __tablename__ = "profiles"
    __table_args__ = (Index("idx_profile_email", "email", unique=True), {"schema": SCHEMA})

    id: Mapped[UUID] = mapped_column(ForeignKey("auth.users.id", ondelete="CASCADE"), primary_key=True)
    email: Mapped[str] = mapped_column(String(255))
    role: Mapped[str] = mapped_column(_enum("UserRole", USER_ROLES), server_default=text("'PENDING'"))
    must_reset_password: Mapped[bool] = mapped_column("mustResetPassword", server_default=text("false"))
    created_at: Mapped[datetime] = _created()
    updated_at: Mapped[datetime] = _updated()


class Project(Base):
    """The container of records, guidelines and jobs; what belongs to it goes with it.

    ``guidelines`` is a PDF in base64. Without an owner it belongs to the operators.
    """

    __tablename__ = "projects"
    __table_args__ = (Index("idx_project_owner", "ownerId"), {"schema": SCHEMA})

    id: Mapped[UUID] = _id()
    name: Mapped[str] = mapped_column(String(255), unique=True)
    owner_id: Mapped[UUID | None] = mapped_column("ownerId", ForeignKey(f"{SCHEMA}.profiles.id", ondelete="CASCADE"))
    # Up to 67 MB, which only an analysis wants: whoever does asks for the column.
    guidelines: Mapped[str | None] = mapped_column(Text, deferred=True, deferred_raiseload=True)
    guidelines_file_name: Mapped[str | None] = mapped_column("guidelinesFileName", String(255))
    last_task_analysis: Mapped[str | None] = mapped_column("lastTaskAnalysis", Text)
    last_feedback_analysis: Mapped[str | None] = mapped_column("lastFeedbackAnalysis", Text)
    created_at: Mapped[datetime] = _created()
    updated_at: Mapped[datetime] = _updated()


class DataRecord(Base):
    """One task or one piece of feedback, once per project by its content.

    An empty ``embedding`` waits for vectorization; a full one was made by ``embedding_model`` and is compared only
    with vectors of the same. ``metadata`` holds every column of the file it came from. ``alignment_job_id`` is the
    analytics job that judged it last.
    """

    __tablename__ = "data_records"
    __table_args__ = (
        Index("idx_record_project", "projectId"),
        Index("idx_record_type", "type"),
        Index("idx_record_category", "category"),
        Index("idx_record_composite", "projectId", "type", "category"),
        Index("uq_data_records_content", "projectId", "contentHash", unique=True),
        Index("ix_data_records_ingestJobId", "ingestJobId", "id"),
        Index("ix_data_records_creator", "createdAt", "createdById"),
        Index("ix_data_records_pending", "projectId", "type", "id"),
        CheckConstraint(r"btrim(content, E' \t\n\r\f\v') <> ''", name="content"),
        CheckConstraint('(cardinality(embedding) = 0) = ("embeddingModel" IS NULL)', name="embedding_model"),
        CheckConstraint('"hasBeenReviewed" OR num_nonnulls("isCategoryCorrect", "reviewedBy") = 0', name="review"),
        {"schema": SCHEMA},
    )

    id: Mapped[UUID] = _id()
    project_id: Mapped[UUID] = _project()
    type: Mapped[str] = mapped_column(_enum("RecordType", RECORD_TYPES))
    category: Mapped[str | None] = mapped_column(_enum("RecordCategory", RECORD_CATEGORIES))
    source: Mapped[str] = mapped_column(String(512))
    content: Mapped[str] = mapped_column(Text)
    content_hash: Mapped[bytes] = mapped_column(
        "contentHash", LargeBinary, Computed(f"{SCHEMA}.content_hash(content)", persisted=True)
    )
    metadata_: Mapped[dict[str, Any] | None] = mapped_column("metadata")
    embedding: Mapped[list[float]] = mapped_column(ARRAY(REAL), server_default=text("'{}'"))
    embedding_model: Mapped[str | None] = mapped_column("embeddingModel", String(255))
    alignment_analysis: Mapped[str | None] = mapped_column("alignmentAnalysis", Text)
    alignment: Mapped[dict[str, Any] | None]
    alignment_job_id: Mapped[UUID | None] = mapped_column("alignmentJobId")
    has_been_reviewed: Mapped[bool] = mapped_column("hasBeenReviewed", server_default=text("false"))
    is_category_correct: Mapped[bool | None] = mapped_column("isCategoryCorrect")
    reviewed_by: Mapped[str | None] = mapped_column("reviewedBy", String(255))
    created_by_id: Mapped[str | None] = mapped_column("createdById", String(255))
    created_by_name: Mapped[str | None] = mapped_column("createdByName", String(255))
    created_by_email: Mapped[str | None] = mapped_column("createdByEmail", String(255))
    ingest_job_id: Mapped[UUID | None] = mapped_column("ingestJobId")
    created_at: Mapped[datetime] = _created()
    updated_at: Mapped[datetime] = _updated()


class LikertScore(Base):
    """How realistic and how good a record is, 1 to 7: one opinion per person and one per model."""

    __tablename__ = "likert_scores"
    __table_args__ = (
        Index("idx_likert_record", "recordId"),
        Index("idx_likert_user", "userId"),
        Index("idx_likert_model", "llmModel"),
        Index("uq_likert_scores_person", "recordId", "userId", unique=True),
        Index("uq_likert_scores_model", "recordId", "llmModel", unique=True),
        CheckConstraint('"realismScore" BETWEEN 1 AND 7', name="realism"),
        CheckConstraint('"qualityScore" BETWEEN 1 AND 7', name="quality"),
        CheckConstraint(f'("userId" = \'{LLM_USER}\') = ("llmModel" IS NOT NULL)', name="model"),
        {"schema": SCHEMA},
    )

    id: Mapped[UUID] = _id()
    record_id: Mapped[UUID] = mapped_column("recordId", ForeignKey(f"{SCHEMA}.data_records.id", ondelete="CASCADE"))
    user_id: Mapped[str] = mapped_column("userId", String(255))
    realism_score: Mapped[int] = mapped_column("realismScore", Integer)
    quality_score: Mapped[int] = mapped_column("qualityScore", Integer)
    llm_model: Mapped[str | None] = mapped_column("llmModel", String(255))
    created_at: Mapped[datetime] = _created()
    updated_at: Mapped[datetime] = _updated()


class Upload(Base):
    """A file as it was handed in, in parts, until its job has read it. Every worker can read it, whatever machine."""

    __tablename__ = "uploads"
    __table_args__ = (Index("ix_uploads_projectId", "projectId"), {"schema": SCHEMA})
    __expiry__ = Expiry(column="createdAt", after=timedelta(days=30))

    id: Mapped[UUID] = _id()
    project_id: Mapped[UUID] = _project()
    file_name: Mapped[str] = mapped_column("fileName", String(500))
    size_bytes: Mapped[int] = mapped_column("sizeBytes", BigInteger)
    sha256: Mapped[bytes] = mapped_column(LargeBinary)
    encoding: Mapped[str | None] = mapped_column(String(20))
    line_count: Mapped[int | None] = mapped_column("lineCount", BigInteger)
    created_at: Mapped[datetime] = _created()


class UploadPart(Base):
    """One piece of a file, numbered from 0; uncompressed, so that reading it costs no more than its bytes."""

    __tablename__ = "upload_parts"
    __table_args__ = ({"schema": SCHEMA},)

    upload_id: Mapped[UUID] = mapped_column(
        "uploadId", ForeignKey(f"{SCHEMA}.uploads.id", ondelete="CASCADE"), primary_key=True
    )
    part_number: Mapped[int] = mapped_column("partNumber", Integer, primary_key=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)


class IngestJob(Job):
    """A file on its way into records, and these into vectors. ``saved + skipped = total``, at every commit.

    ``skipped_details`` has a count and the first line numbers of each reason. ``resume_at`` is where the next run goes
    on: ``{"line": physical lines consumed, …, "away": since when the embedding provider is}``. A ``source`` that begins
    with ``csv:`` tells of a file, even when that is gone. A job without an upload has nothing to load and embeds what a
    project's records lack for the current embedding model.
    """

    __tablename__ = "ingest_jobs"
    __lifecycle__: ClassVar[Lifecycle] = INGESTION
    __may_differ__: ClassVar[frozenset[str]] = frozenset({"upload_id"})
    __table_args__ = (
        Index("idx_ingest_job_project", "projectId"),
        Index("idx_ingest_job_status", "status"),
        Index("ix_ingest_jobs_uploadId", "uploadId"),
        CheckConstraint('"totalRecords" = "savedCount" + "skippedCount"', name="counts"),
        CheckConstraint("coalesce(source, '') LIKE 'csv:%' OR \"uploadId\" IS NULL", name="source"),
        *kernel_indexes("ingest_jobs", created_column="createdAt"),
        {"schema": SCHEMA},
    )

    project_id: Mapped[UUID] = _project()
    type: Mapped[str] = mapped_column(_enum("RecordType", RECORD_TYPES))
    status: Mapped[str] = mapped_column(String(20), server_default=text("'PENDING'"))
    upload_id: Mapped[UUID | None] = mapped_column("uploadId", ForeignKey(f"{SCHEMA}.uploads.id", ondelete="SET NULL"))
    source: Mapped[str | None] = mapped_column(String(512))
    content_hash: Mapped[bytes | None] = mapped_column("contentHash", LargeBinary)
    mapping: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    total_records: Mapped[int] = mapped_column("totalRecords", Integer, server_default=text("0"))
    saved_count: Mapped[int] = mapped_column("savedCount", Integer, server_default=text("0"))
    skipped_count: Mapped[int] = mapped_column("skippedCount", Integer, server_default=text("0"))
    skipped_details: Mapped[dict[str, Any] | None] = mapped_column("skippedDetails")
    warnings: Mapped[dict[str, Any] | None]
    resume_at: Mapped[dict[str, Any] | None] = mapped_column("resumeAt")
    embedded_count: Mapped[int] = mapped_column("embeddedCount", Integer, server_default=text("0"))
    ended_in: Mapped[str | None] = ended_in()
    error_message: Mapped[str | None] = mapped_column("error", Text)
    created_at: Mapped[datetime] = _created()
    updated_at: Mapped[datetime] = _updated()


class AnalyticsJob(Job):
    """An analysis of all records of a project (of one type, if ``type`` says so) against its guidelines.

    ``processed_count`` counts the judged and the failed; the failed are listed in ``analytics_failures``.
    ``resume_at`` is what the next run goes by: ``{"turn": version of the run whose turn it is, "away": since when the
    provider is, "reported": records by type that a report was written about}``.
    """

    __tablename__ = "analytics_jobs"
    __lifecycle__: ClassVar[Lifecycle] = ANALYTICS
    __table_args__ = (
        Index("idx_analytics_job_project", "projectId"),
        *kernel_indexes("analytics_jobs", created_column="createdAt"),
        {"schema": SCHEMA},
    )

    project_id: Mapped[UUID] = _project()
    type: Mapped[str | None] = mapped_column(_enum("RecordType", RECORD_TYPES))
    status: Mapped[str] = mapped_column(String(20), server_default=text("'PENDING'"))
    model_name: Mapped[str | None] = mapped_column("modelName", String(255))
    total_records: Mapped[int] = mapped_column("totalRecords", Integer, server_default=text("0"))
    processed_count: Mapped[int] = mapped_column("processedCount", Integer, server_default=text("0"))
    failed_count: Mapped[int] = mapped_column("failedCount", Integer, server_default=text("0"))
    resume_at: Mapped[dict[str, Any] | None] = mapped_column("resumeAt")
    error_message: Mapped[str | None] = mapped_column("error", Text)
    created_at: Mapped[datetime] = _created()
    updated_at: Mapped[datetime] = _updated()


class AnalyticsFailure(Base):
    """A record that an analytics job could not judge, and why."""

    __tablename__ = "analytics_failures"
    __table_args__ = (Index("ix_analytics_failures_recordId", "recordId"), {"schema": SCHEMA})

    job_id: Mapped[UUID] = mapped_column(
        "jobId", ForeignKey(f"{SCHEMA}.analytics_jobs.id", ondelete="CASCADE"), primary_key=True
    )
    record_id: Mapped[UUID] = mapped_column(
        "recordId", ForeignKey(f"{SCHEMA}.data_records.id", ondelete="CASCADE"), primary_key=True
    )
    error: Mapped[str] = mapped_column(Text)


class GuidelinePassage(Base):
    """One passage of the ``of`` that a guidelines document has, embedded once per document and embedding model."""

    __tablename__ = "guideline_passages"
    __table_args__ = (
        Index("ix_guideline_passages_createdAt", "createdAt"),
        CheckConstraint('ordinal BETWEEN 1 AND "of"', name="ordinal"),
        {"schema": SCHEMA},
    )
    __expiry__ = Expiry(column="createdAt", after=timedelta(days=90))

    document_hash: Mapped[bytes] = mapped_column("documentHash", LargeBinary, primary_key=True)
    embedding_model: Mapped[str] = mapped_column("embeddingModel", String(255), primary_key=True)
    ordinal: Mapped[int] = mapped_column(Integer, primary_key=True)
    of: Mapped[int] = mapped_column(Integer)
    page: Mapped[int] = mapped_column(Integer)
    content: Mapped[str] = mapped_column(Text)
    embedding: Mapped[list[float]] = mapped_column(ARRAY(REAL))
    created_at: Mapped[datetime] = _created()


class SystemSetting(Base):
    """One setting that takes effect while everything runs. Secrets are encrypted before they get here."""

    __tablename__ = "system_settings"
    __table_args__ = (
        CheckConstraint(
            """CASE WHEN key = 'ai_provider' THEN value IN ('lmstudio', 'openrouter', 'openai', 'offline')
            WHEN key = 'ai_host' THEN value ~ '^https?://[^/@]+(/[^@]*)?$'
            WHEN key IN ('openrouter_key', 'openai_key') THEN value LIKE 'gAAAA%' ELSE value ~ '\\S' END""",
            name="value",
        ),
        {"schema": SCHEMA},
    )

    key: Mapped[str] = mapped_column(String(100), primary_key=True)
    value: Mapped[str] = mapped_column(Text)
    description: Mapped[str | None] = mapped_column(String(500))
    updated_at: Mapped[datetime] = _updated()


class BonusWindow(Base):
    """A time in which people can earn a bonus by what they create; a target of 0 disables its metric."""

    __tablename__ = "bonus_windows"
    __table_args__ = (
        Index("idx_bonus_window_time", "startTime", "endTime"),
        CheckConstraint('"startTime" < "endTime"', name="times"),
        CheckConstraint(
            'least("targetTaskCount", "targetFeedbackCount", "targetTaskCountTier2", "targetFeedbackCountTier2") >= 0',
            name="targets",
        ),
        {"schema": SCHEMA},
    )

    id: Mapped[UUID] = _id()
    name: Mapped[str] = mapped_column(String(255), server_default=text("'Bonus Window'"))
    start_time: Mapped[datetime] = mapped_column("startTime")
    end_time: Mapped[datetime] = mapped_column("endTime")
    target_task_count: Mapped[int] = mapped_column("targetTaskCount", Integer, server_default=text("0"))
    target_feedback_count: Mapped[int] = mapped_column("targetFeedbackCount", Integer, server_default=text("0"))
    target_task_count_tier2: Mapped[int] = mapped_column("targetTaskCountTier2", Integer, server_default=text("0"))
    target_feedback_count_tier2: Mapped[int] = mapped_column(
        "targetFeedbackCountTier2", Integer, server_default=text("0")
    )
    created_by: Mapped[UUID] = mapped_column("createdBy")
    created_at: Mapped[datetime] = _created()
    updated_at: Mapped[datetime] = _updated()
