"""Bonus windows: periods in which people earn a bonus for the records that they create."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    Index,
    Integer,
    String,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base
from models.operations.columns import SCHEMA, created_column, id_column, updated_column


class BonusWindow(Base):
    """A period in which people can earn a bonus for what they create; a target of 0 disables its metric."""

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

    id: Mapped[UUID] = id_column()
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
    created_at: Mapped[datetime] = created_column()
    updated_at: Mapped[datetime] = updated_column()
