"""Who can be asked: providers of language models, changed while everything runs."""

from datetime import datetime

from sqlalchemy import CheckConstraint, String, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base

KINDS = ("openai", "openrouter", "compatible", "offline")


class Provider(Base):
    """A server that answers, with the key that is sent to it.

    ``base_url`` is the kind's own address where it is None; a ``compatible`` one has none of its own. ``api_key`` is
    encrypted before it gets here. While ``paused_at`` is set, nobody asks it: operators paused it.
    """

    __tablename__ = "providers"
    __table_args__ = (
        # The last two are made of the environment and of the system settings.
        CheckConstraint(
            "name ~ '^[A-Za-z0-9][A-Za-z0-9_.-]*$' AND name NOT IN ('environment', 'settings')", name="name"
        ),
        CheckConstraint(f"kind IN ({', '.join(repr(kind) for kind in KINDS)})", name="kind"),
        # Which addresses are taken: migrations/sql/0019/tables.sql; the same rules are in workers.llm.routing.rules.
        CheckConstraint("llm.is_base_url(kind, base_url)", name="base_url"),
        CheckConstraint(
            "api_key IS NULL OR kind <> 'offline' AND api_key ~ '^gAAAA[A-Za-z0-9_-]{90,}={0,2}$' "
            "AND length(api_key) <= 4096",
            name="api_key",
        ),
        CheckConstraint(
            "(paused_at IS NULL) = (paused_reason IS NULL) AND paused_at BETWEEN '0001-01-02 00:00:00+00' "
            "AND '9999-12-31 00:00:00+00' AND length(paused_reason) <= 500",
            name="paused",
        ),
        {"schema": "llm"},
    )

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    base_url: Mapped[str | None] = mapped_column(Text)
    api_key: Mapped[str | None] = mapped_column(Text)
    paused_at: Mapped[datetime | None]
    paused_reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
