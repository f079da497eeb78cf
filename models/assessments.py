"""Assessments: their shared state, its cache and its metrics. Schema ``assessments``."""

from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import Index, Integer, String, Text, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import ENUM
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Expiry
from models.lifecycle import Job, Lifecycle, Step, kernel_indexes
from models.scoring import DEFAULT_MODEL

SCHEMA = "assessments"
STATES = ("pending", "processing", "completed", "failed", "cancelled")
RETENTION = timedelta(days=30)

ASSESSMENT = Lifecycle(
    steps=(Step("assessment.assess", ready="pending", running="processing", done="completed"),),
    retention=RETENTION,
    ends_at_full_progress=True,
)


class Assessment(Job):
    """One assessment. Services know it by ``assessment_id``, which is unique per owner.

    The columns ``state`` and ``next_retry_at`` of the seed are the lifecycle's ``status`` and ``due_at``. Keys may be
    added to ``request_data``, but not removed. ``result_data`` and ``error_message`` change only together with the
    version and are never set to NULL. ``asked_model`` is the model that the request names, of a composite that of its
    first part. The database sets it.
    """

    __tablename__ = "assessment_states"
    __lifecycle__: ClassVar[Lifecycle] = ASSESSMENT
    __may_grow__: ClassVar[frozenset[str]] = frozenset({"request_data"})
    __table_args__ = (
        UniqueConstraint(
            "assessment_id",
            "owner_id",
            name="idx_assessment_states_assessment_id",
            postgresql_nulls_not_distinct=True,
        ),
        Index("idx_assessment_states_state_created", "state", "created_at"),
        Index("idx_assessment_states_priority_created", "priority", "created_at"),
        Index("idx_assessment_states_next_retry", "next_retry_at"),
        Index("idx_assessment_states_created_completed", "created_at", "completed_at"),
        *kernel_indexes(
            "assessment_states",
            status_column="state",
            due_column="next_retry_at",
            gate_column="asked_model",
            status_is_enum=True,
        ),
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
    asked_model: Mapped[str] = mapped_column(Text, server_default=text(f"'{DEFAULT_MODEL}'"))


class RetiredAssessment(Base):
    """The ``assessment_id`` of a deleted assessment: its history in ``runtime.transitions`` is kept longer.

    This row is kept twice as long as transitions are by default.
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
    owner_id: Mapped[UUID | None]
    deleted_at: Mapped[datetime] = mapped_column(server_default=func.now())


class CachedAssessment(Base):
    """A state of an assessment that a service cached until ``expires_at``. A crash of Postgres may lose it.

    ``row_mark`` identifies the update of the assessment's row. ``get_cached_state`` returns nothing if the row has
    changed since.
    """

    __tablename__ = "assessment_state_cache"
    __table_args__ = (
        Index("idx_assessment_state_cache_expires", "expires_at"),
        {"schema": SCHEMA, "prefixes": ["UNLOGGED"]},
    )
    __expiry__ = Expiry(column="expires_at", after=timedelta())

    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    assessment_id: Mapped[str] = mapped_column(String(255))
    owner_id: Mapped[UUID | None]
    version: Mapped[int] = mapped_column(Integer)
    row_mark: Mapped[str] = mapped_column(Text)
    state_data: Mapped[dict[str, Any]]
    expires_at: Mapped[datetime]
    last_accessed: Mapped[datetime] = mapped_column(server_default=func.now())
    access_count: Mapped[int] = mapped_column(Integer, server_default=text("0"))


class AssessmentMetric(Base):
    """One measurement. The database writes some when an assessment ends; services and assessors may add their own.

    The database writes ``processing_time`` (milliseconds) if the assessment had started, and ``retry_count`` and
    ``error_count`` if they are not zero.
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
    owner_id: Mapped[UUID | None] = mapped_column(server_default=text("runtime.actor_id()"))
    metric_type: Mapped[str] = mapped_column(String(50))
    metric_value: Mapped[int] = mapped_column(Integer)
    timestamp: Mapped[datetime] = mapped_column(server_default=func.now())
