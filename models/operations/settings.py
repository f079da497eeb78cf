"""Settings that take effect without a restart."""

from datetime import datetime

from sqlalchemy import (
    CheckConstraint,
    String,
    Text,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base
from models.operations.columns import SCHEMA, updated_column

SETTINGS = ("ai_provider", "ai_host", "llm_model", "embedding_model", "openrouter_key", "openai_key")


class SystemSetting(Base):
    """One setting that takes effect without a restart. Secrets are encrypted before they are stored."""

    __tablename__ = "system_settings"
    __table_args__ = (
        CheckConstraint(f"key IN ({', '.join(repr(key) for key in SETTINGS)})", name="key"),
        # The rules for the values are in migrations/sql/0012/settings.sql; workers.operations has the same rules.
        {"schema": SCHEMA},
    )

    key: Mapped[str] = mapped_column(String(100), primary_key=True)
    value: Mapped[str] = mapped_column(Text)
    description: Mapped[str | None] = mapped_column(String(500))
    updated_at: Mapped[datetime] = updated_column()
