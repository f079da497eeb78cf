"""Limits of calls, what is used of them, cooldowns, and who asks."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class Limit(Base):
    """How much may be called: at most so many of a measure in every window of so many seconds.

    It is about the calls that match its provider, model, stage and owner, as far as it names them; with ``per_owner``
    each owner has as much. A limit of ``concurrency`` has no window. ``learned`` ones come from what providers say of
    themselves, and end ``until`` then. A new limit counts the calls of its last window at once.
    """

    __tablename__ = "limits"
    __table_args__ = (
        UniqueConstraint(
            "provider",
            "model",
            "stage",
            "owner_id",
            "per_owner",
            "measure",
            "window_seconds",
            "set_by",
            name="uq_limits_one",
            postgresql_nulls_not_distinct=True,
        ),
        CheckConstraint(
            "measure IN ('requests', 'input_tokens', 'output_tokens', 'tokens', 'requested_tokens', 'concurrency')",
            name="measure",
        ),
        CheckConstraint("at_most BETWEEN 0 AND 1000000000000", name="at_most"),
        CheckConstraint(
            "(window_seconds IS NULL) = (measure = 'concurrency') AND window_seconds BETWEEN 1 AND 2678400",
            name="window",
        ),
        CheckConstraint("NOT (per_owner AND owner_id IS NOT NULL)", name="owner"),
        CheckConstraint("set_by IN ('operator', 'learned')", name="set_by"),
        CheckConstraint("until BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-31 00:00:00+00'", name="times"),
        Index("ix_limits_owner_id", "owner_id"),
        {"schema": "llm"},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    provider: Mapped[str | None] = mapped_column(String(255))
    model: Mapped[str | None] = mapped_column(String(255))
    stage: Mapped[str | None] = mapped_column(String(100))
    owner_id: Mapped[UUID | None]
    per_owner: Mapped[bool] = mapped_column(server_default=text("false"))
    measure: Mapped[str] = mapped_column(String(20))
    at_most: Mapped[int] = mapped_column(BigInteger)
    window_seconds: Mapped[int | None] = mapped_column(Integer)
    set_by: Mapped[str] = mapped_column(String(10), server_default=text("'operator'"))
    until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class WindowCount(Base):
    """What is used of a limit in one bucket, a 64th of its window; bucket 0 of ``concurrency`` is what is under way.

    A bucket counts until a whole window after its end. ``subject`` is the owner of a limit that each owner has.
    Written by ``llm.admit`` and ``llm.settle_calls`` only.
    """

    __tablename__ = "window_counts"
    __table_args__ = {"schema": "llm"}

    limit_id: Mapped[UUID] = mapped_column(ForeignKey("llm.limits.id", ondelete="CASCADE"), primary_key=True)
    subject: Mapped[str] = mapped_column(String(40), primary_key=True)
    bucket: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    amount: Mapped[int] = mapped_column(BigInteger)


class Cooldown(Base):
    """A model of a provider that nobody calls ``until`` then, because it refused a call; '' means all its models."""

    __tablename__ = "cooldowns"
    __table_args__ = (
        CheckConstraint("since <= until AND since > '0001-01-02' AND until < '9999-12-31'", name="times"),
        CheckConstraint("length(reason) <= 2000", name="reason"),
        {"schema": "llm"},
    )

    provider: Mapped[str] = mapped_column(String(255), primary_key=True)
    model: Mapped[str] = mapped_column(String(255), primary_key=True, server_default=text("''"))
    since: Mapped[datetime]
    until: Mapped[datetime]
    reason: Mapped[str] = mapped_column(Text)


class Asker(Base):
    """A process that asks for admission, and its last question: an older one that arrives late changes nothing."""

    __tablename__ = "askers"
    __table_args__ = {"schema": "llm"}

    id: Mapped[UUID] = mapped_column(primary_key=True)
    turn: Mapped[int] = mapped_column(BigInteger)
    seen_at: Mapped[datetime]
