"""Pauses of model providers, shared by all worker processes."""

from datetime import datetime, timedelta

from sqlalchemy import (
    CheckConstraint,
    Text,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Expiry


class ProviderPause(Base):
    """A provider that is away. No process calls it before ``until``; then one process tries.

    ``provider`` is ``<server>``, or ``<server>|<model>`` for one model. Only worker processes write this table
    (``workers.llm.pause_store``). They delete the row when the provider answers.
    """

    __tablename__ = "provider_pauses"
    __table_args__ = (
        CheckConstraint(
            "since <= until AND isfinite(since) AND until < '10000-01-01' "
            "AND coalesce(probing_until, until) < '10000-01-01'",
            name="times",
        ),
        {"schema": "runtime"},
    )
    __expiry__ = Expiry(column="until", after=timedelta(days=1))

    provider: Mapped[str] = mapped_column(Text, primary_key=True)
    since: Mapped[datetime]
    until: Mapped[datetime]
    probing_until: Mapped[datetime | None]
    reason: Mapped[str] = mapped_column(Text)
