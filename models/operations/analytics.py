"""The jobs that judge the records of a project, and the records that could not be judged."""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base
from models.lifecycle import Job, Lifecycle, Step, kernel_indexes
from models.operations.columns import (
    RECORD_TYPES,
    RETENTION,
    SCHEMA,
    created_column,
    enum_type,
    project_column,
    updated_column,
)
from models.scoring import DEFAULT_MODEL

ANALYTICS = Lifecycle(
    steps=(Step("analytics.align", ready="PENDING", running="PROCESSING", done="COMPLETED"),),
    failed="FAILED",
    cancelled="CANCELLED",
    retention=RETENTION,
)


class AnalyticsJob(Job):
    """An analysis of all records of a project (or of those with ``type``) against the guidelines of the project.

    ``processed_count`` counts the judged and the failed records; ``analytics_failures`` lists the failed ones.
    ``resume_at`` tells the next run where to continue: ``{"turn": version of the run that may work now, "away": time
    since which the provider is away, "reported": records by type that have a report, "tokens": those of questions,
    answers and embedded texts so far}``. ``warnings`` tell the reader about problems, for example guidelines without
    text. ``asked_model`` is ``model_name`` or, without one, the default: the database sets it.
    """

    __tablename__ = "analytics_jobs"
    __lifecycle__: ClassVar[Lifecycle] = ANALYTICS
    __table_args__ = (
        Index("idx_analytics_job_project", "projectId"),
        Index("ix_analytics_jobs_project_id", "projectId", "id"),
        *kernel_indexes("analytics_jobs", created_column="createdAt", gate_column="asked_model"),
        {"schema": SCHEMA},
    )

    project_id: Mapped[UUID] = project_column()
    type: Mapped[str | None] = mapped_column(enum_type("RecordType", RECORD_TYPES))
    status: Mapped[str] = mapped_column(String(40), server_default=text("'PENDING'"))
    model_name: Mapped[str | None] = mapped_column("modelName", String(255))
    asked_model: Mapped[str] = mapped_column(Text, server_default=text(f"'{DEFAULT_MODEL}'"))
    total_records: Mapped[int] = mapped_column("totalRecords", Integer, server_default=text("0"))
    processed_count: Mapped[int] = mapped_column("processedCount", Integer, server_default=text("0"))
    failed_count: Mapped[int] = mapped_column("failedCount", Integer, server_default=text("0"))
    warnings: Mapped[dict[str, Any] | None]
    resume_at: Mapped[dict[str, Any] | None] = mapped_column("resumeAt")
    error_message: Mapped[str | None] = mapped_column("error", Text)
    created_at: Mapped[datetime] = created_column()
    updated_at: Mapped[datetime] = updated_column()


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


class AnalyticsTurn(Base):
    """The row that an analysis of a project locks while it checks which run may work. No service sees it."""

    __tablename__ = "analytics_turns"
    __table_args__ = ({"schema": SCHEMA},)

    project_id: Mapped[UUID] = mapped_column("projectId", primary_key=True)
    looked_at: Mapped[datetime] = mapped_column("lookedAt", server_default=func.now())
