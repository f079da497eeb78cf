"""Assessments: the state that services share, its cache and its measurements. Schema ``assessments``."""

from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import Index, Integer, String, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import ENUM
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Expiry
from models.lifecycle import Job, Lifecycle, Step, kernel_indexes

SCHEMA = "assessments"
STATES = ("pending", "processing", "completed", "failed", "cancelled")
RETENTION = timedelta(days=30)

ASSESSMENT = Lifecycle(
    steps=(Step("assessment.assess", ready="pending", running="processing", done="completed"),),
    retention=RETENTION,
    ends_at_full_progress=True,
)


class Assessment(Job):
    """One assessment as services know it, by ``assessment_id``; the seed's ``state`` and ``next_retry_at`` are the

    lifecycle's ``status`` and ``due_at``. ``request_data`` may gain keys and loses none; ``result_data`` and
    ``error_message`` change only with the version, and neither is erased.
    """

    __tablename__ = "assessment_states"
    __lifecycle__: ClassVar[Lifecycle] = ASSESSMENT
    __may_grow__: ClassVar[frozenset[str]] = frozenset({"request_data"})
    __table_args__ = (
        UniqueConstraint("assessment_id", name="idx_assessment_states_assessment_id"),
        Index("idx_assessment_states_state_created", "state", "created_at"),
        Index("idx_assessment_states_priority_created", "priority", "created_at"),
        Index("idx_assessment_states_next_retry", "next_retry_at"),
        Index("idx_assessment_states_created_completed", "created_at", "completed_at"),
        *kernel_indexes("assessment_states", status_column="state", due_column="next_retry_at"),
        {"schema": SCHEMA},
    )

    assessment_id: Mapped[str] = mapped_column(String(255))
    status: Mapped[str] = mapped_column(
        "state",
        ENUM(*STATES, name="assessmentstate", schema=SCHEMA, create_type=False),
        server_default=text("'pending'"),
    )
    request_data: Mapped[dict[str, Any]]
    result_data: Mapped[dict[str, Any] | None]
    progress: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    priority: Mapped[int] = mapped_column(Integer, server_default=text("5"))
    due_at: Mapped[datetime | None] = mapped_column("next_retry_at")
    timeout_seconds: Mapped[int | None] = mapped_column(Integer, server_default=text("300"))
    max_retries: Mapped[int] = mapped_column(Integer, server_default=text("3"))
    change_action: Mapped[str | None] = mapped_column(String(100))


class RetiredAssessment(Base):
    """The name of an assessment whose row is gone: its history in ``runtime.transitions`` outlives it.

    Kept twice as long as the transitions are by default.
    """

    __tablename__ = "retired_assessments"
    __table_args__ = (
        Index("ix_retired_assessments_assessment_id", "assessment_id"),
        Index("ix_retired_assessments_deleted_at", "deleted_at"),
        {"schema": SCHEMA},
    )
    __expiry__ = Expiry(column="deleted_at", after=timedelta(days=800))

    id: Mapped[UUID] = mapped_column(primary_key=True)
    assessment_id: Mapped[str] = mapped_column(String(255))
    deleted_at: Mapped[datetime] = mapped_column(server_default=func.now())


class CachedAssessment(Base):
    """What a service chose to remember of an assessment until ``expires_at``; lost in a crash, as a cache may be."""

    __tablename__ = "assessment_state_cache"
    __table_args__ = (
        Index("idx_assessment_state_cache_expires", "expires_at"),
        {"schema": SCHEMA, "prefixes": ["UNLOGGED"]},
    )
    __expiry__ = Expiry(column="expires_at", after=timedelta())

    assessment_id: Mapped[str] = mapped_column(String(255), primary_key=True)
    state_data: Mapped[dict[str, Any]]
    expires_at: Mapped[datetime]
    last_accessed: Mapped[datetime] = mapped_column(server_default=func.now())
    access_count: Mapped[int] = mapped_column(Integer, server_default=text("0"))


class AssessmentMetric(Base):
    """One measurement. The database writes those of each ending (``processing_time`` in milliseconds, and

    ``retry_count`` and ``error_count`` where there were any); services and assessors may add their own.
    """

    __tablename__ = "assessment_metrics"
    __table_args__ = (
        Index("idx_assessment_metrics_assessment_id", "assessment_id"),
        Index("idx_assessment_metrics_type_timestamp", "metric_type", "timestamp"),
        {"schema": SCHEMA},
    )
    __expiry__ = Expiry(column="timestamp", after=timedelta(days=90))

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    assessment_id: Mapped[str] = mapped_column(String(255))
    metric_type: Mapped[str] = mapped_column(String(50))
    metric_value: Mapped[int] = mapped_column(Integer)
    timestamp: Mapped[datetime] = mapped_column(server_default=func.now())
