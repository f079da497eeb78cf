"""Profile scoring: the profiles, and the jobs that score them."""

from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import ForeignKey, Index, String, Text, desc, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base
from models.lifecycle import Job, Lifecycle, Step, kernel_indexes

DEFAULT_MODEL = "gpt-3.5-turbo"

SCORING = Lifecycle(
    steps=(Step("scoring.score", ready="pending", running="processing", done="completed"),),
    retention=timedelta(days=7),
)


class Profile(Base):
    """A person or thing to score; only a name is required. Row level security shows it to its owner."""

    __tablename__ = "profiles"
    __table_args__ = (Index("idx_profiles_owner_id", "owner_id"), {"schema": "scoring"})

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    owner_id: Mapped[UUID | None] = mapped_column(server_default=text("runtime.actor_id()"))
    name: Mapped[str] = mapped_column(Text)
    attributes: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ScoringJob(Job):
    """One evaluation of one profile by a language model."""

    __tablename__ = "scoring_jobs"
    __lifecycle__: ClassVar[Lifecycle] = SCORING
    __table_args__ = (
        Index("idx_scoring_jobs_profile_id", "profile_id"),
        Index("ix_scoring_jobs_profile_id_id", "profile_id", "id"),
        Index("idx_scoring_jobs_status", "status"),
        Index("idx_scoring_jobs_created_at", desc("created_at")),
        Index("idx_scoring_jobs_status_updated", "status", desc("updated_at")),
        *kernel_indexes("scoring_jobs", limit_column="profile_id", gate_column="model_name"),
        {"schema": "scoring"},
    )

    profile_id: Mapped[UUID] = mapped_column(ForeignKey("scoring.profiles.id", ondelete="CASCADE"))
    status: Mapped[str] = mapped_column(String(40), server_default=text("'pending'"))
    prompt: Mapped[str] = mapped_column(Text)
    model_name: Mapped[str] = mapped_column(String(50), server_default=text(f"'{DEFAULT_MODEL}'"))
    llm_response: Mapped[dict[str, Any] | None]
    parsed_score: Mapped[dict[str, Any] | None]
