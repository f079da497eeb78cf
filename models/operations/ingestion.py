"""Uploaded files, and the jobs that turn them into records."""

from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Expiry
from models.lifecycle import Job, Lifecycle, Step, ended_in, kernel_indexes
from models.operations.columns import (
    RECORD_TYPES,
    RETENTION,
    SCHEMA,
    created_column,
    enum_type,
    id_column,
    project_column,
    updated_column,
)

INGESTION = Lifecycle(
    steps=(
        Step("ingestion.ingest", ready="PENDING", running="PROCESSING", done="QUEUED_FOR_VEC"),
        Step("vectorization.embed", ready="QUEUED_FOR_VEC", running="VECTORIZING", done="COMPLETED"),
    ),
    failed="FAILED",
    cancelled="CANCELLED",
    retention=RETENTION,
)


class Upload(Base):
    """An uploaded file, in parts, kept until its job has read it. Workers on every machine can read it."""

    __tablename__ = "uploads"
    __table_args__ = (Index("ix_uploads_projectId", "projectId"), {"schema": SCHEMA})
    __expiry__ = Expiry(column="createdAt", after=timedelta(days=30))

    id: Mapped[UUID] = id_column()
    project_id: Mapped[UUID] = project_column()
    file_name: Mapped[str] = mapped_column("fileName", String(500))
    size_bytes: Mapped[int] = mapped_column("sizeBytes", BigInteger)
    sha256: Mapped[bytes] = mapped_column(LargeBinary)
    encoding: Mapped[str | None] = mapped_column(String(20))
    line_count: Mapped[int | None] = mapped_column("lineCount", BigInteger)
    created_at: Mapped[datetime] = created_column()


class UploadPart(Base):
    """One part of a file, numbered from 0. It is not compressed, so that reading a part is cheap."""

    __tablename__ = "upload_parts"
    __table_args__ = ({"schema": SCHEMA},)

    upload_id: Mapped[UUID] = mapped_column(
        "uploadId", ForeignKey(f"{SCHEMA}.uploads.id", ondelete="CASCADE"), primary_key=True
    )
    part_number: Mapped[int] = mapped_column("partNumber", Integer, primary_key=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)


class IngestJob(Job):
    """A job that loads a file into records and then embeds them. ``saved + skipped = total``, at every commit.

    ``skipped_details`` has for each reason a count and the first line numbers. ``resume_at`` tells the next run where
    to continue: ``{"line": physical lines consumed, …, "away": time since which the embedding provider is away,
    "tokens": those of embedded texts}``. For JSON arrays, ``line`` counts items; for workbooks, rows. A
    ``source`` with a prefix, for example ``csv:``, means that the job has or had a file. ``options`` say how to read
    the file. A job without a file loads nothing: it embeds the records of the project that have no vector of the
    current embedding model.
    """

    __tablename__ = "ingest_jobs"
    __lifecycle__: ClassVar[Lifecycle] = INGESTION
    __may_differ__: ClassVar[frozenset[str]] = frozenset({"upload_id"})
    __table_args__ = (
        Index("idx_ingest_job_project", "projectId"),
        Index("ix_ingest_jobs_project_id", "projectId", "id"),
        Index("idx_ingest_job_status", "status"),
        Index("ix_ingest_jobs_uploadId", "uploadId"),
        CheckConstraint('"totalRecords" = "savedCount" + "skippedCount"', name="counts"),
        CheckConstraint("coalesce(source, '') ~ '^(csv|json|jsonl|xlsx):' OR \"uploadId\" IS NULL", name="source"),
        CheckConstraint("jsonb_typeof(options) = 'object'", name="options"),
        *kernel_indexes("ingest_jobs", created_column="createdAt"),
        {"schema": SCHEMA},
    )

    project_id: Mapped[UUID] = project_column()
    type: Mapped[str] = mapped_column(enum_type("RecordType", RECORD_TYPES))
    status: Mapped[str] = mapped_column(String(40), server_default=text("'PENDING'"))
    upload_id: Mapped[UUID | None] = mapped_column("uploadId", ForeignKey(f"{SCHEMA}.uploads.id", ondelete="SET NULL"))
    source: Mapped[str | None] = mapped_column(String(512))
    content_hash: Mapped[bytes | None] = mapped_column("contentHash", LargeBinary)
    mapping: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    options: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    total_records: Mapped[int] = mapped_column("totalRecords", Integer, server_default=text("0"))
    saved_count: Mapped[int] = mapped_column("savedCount", Integer, server_default=text("0"))
    skipped_count: Mapped[int] = mapped_column("skippedCount", Integer, server_default=text("0"))
    skipped_details: Mapped[dict[str, Any] | None] = mapped_column("skippedDetails")
    warnings: Mapped[dict[str, Any] | None]
    resume_at: Mapped[dict[str, Any] | None] = mapped_column("resumeAt")
    embedded_count: Mapped[int] = mapped_column("embeddedCount", Integer, server_default=text("0"))
    ended_in: Mapped[str | None] = ended_in()
    error_message: Mapped[str | None] = mapped_column("error", Text)
    created_at: Mapped[datetime] = created_column()
    updated_at: Mapped[datetime] = updated_column()
