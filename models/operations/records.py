"""The records of a project and the ratings of each record."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    REAL,
    CheckConstraint,
    Computed,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base
from models.operations.columns import (
    RECORD_CATEGORIES,
    RECORD_TYPES,
    SCHEMA,
    created_column,
    enum_type,
    id_column,
    project_column,
    updated_column,
)
from models.operations.users import LLM_USER


class DataRecord(Base):
    """One task or one piece of feedback, once per project by its content.

    An empty ``embedding`` waits for vectorization. Any other was made by ``embedding_model`` and is compared only with
    vectors of this model. ``metadata`` holds every column of the record's source file. ``alignment_job_id`` is the
    analytics job that judged the record last.
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

    id: Mapped[UUID] = id_column()
    project_id: Mapped[UUID] = project_column()
    type: Mapped[str] = mapped_column(enum_type("RecordType", RECORD_TYPES))
    category: Mapped[str | None] = mapped_column(enum_type("RecordCategory", RECORD_CATEGORIES))
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
    created_at: Mapped[datetime] = created_column()
    updated_at: Mapped[datetime] = updated_column()


class LikertScore(Base):
    """How realistic and how good a record is, 1 to 7: at most one rating per person and one per model."""

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

    id: Mapped[UUID] = id_column()
    record_id: Mapped[UUID] = mapped_column("recordId", ForeignKey(f"{SCHEMA}.data_records.id", ondelete="CASCADE"))
    user_id: Mapped[str] = mapped_column("userId", String(255))
    realism_score: Mapped[int] = mapped_column("realismScore", Integer)
    quality_score: Mapped[int] = mapped_column("qualityScore", Integer)
    llm_model: Mapped[str | None] = mapped_column("llmModel", String(255))
    created_at: Mapped[datetime] = created_column()
    updated_at: Mapped[datetime] = updated_column()
