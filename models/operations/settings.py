"""Settings that take effect while the system runs."""

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
    """One setting that takes effect while everything runs. Secrets are encrypted before they get here."""

    __tablename__ = "system_settings"
    __table_args__ = (
        CheckConstraint(f"key IN ({', '.join(repr(key) for key in SETTINGS)})", name="key"),
        # Which value each takes: migrations/sql/0012/settings.sql; the same rules are in workers.operations.
        {"schema": SCHEMA},
    )

    key: Mapped[str] = mapped_column(String(100), primary_key=True)
    value: Mapped[str] = mapped_column(Text)
    description: Mapped[str | None] = mapped_column(String(500))
    updated_at: Mapped[datetime] = updated_column()
