"""Budgets of model calls, what is spent of them, and which warnings were given."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Numeric,
    String,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class Budget(Base):
    """How much money or how many tokens may be spent in each day, week or month of a zone, or in total.

    ``warn_at`` are shares of it that are told once per window. ``then`` says what happens when it is spent: ``stop``
    refuses calls until the window ends, ``slow`` admits a thousandth of it each minute (one call at least), ``batch``
    refuses all but the batch lane, ``warn`` refuses nothing. A new budget starts from the sum of the ledger.
    """

    __tablename__ = "budgets"
    __table_args__ = (
        UniqueConstraint("name", name="uq_budgets_name"),
        CheckConstraint("name ~ '\\S'", name="name"),
        CheckConstraint(
            "scope IN ('all', 'tenant', 'project', 'profile', 'stage') AND (scope = 'all') = (scope_value IS NULL)",
            name="scope",
        ),
        CheckConstraint("\"window\" IN ('day', 'week', 'month', 'total')", name="window"),
        CheckConstraint("(timestamptz '2000-01-01 00:00:00+00' AT TIME ZONE zone) IS NOT NULL", name="zone"),
        CheckConstraint(
            "num_nonnulls(usd, tokens) > 0 AND usd >= 0 AND usd < 1000000000000 "
            "AND tokens BETWEEN 0 AND 1000000000000000",
            name="amount",
        ),
        CheckConstraint(
            "cardinality(warn_at) <= 20 AND array_position(warn_at, NULL) IS NULL "
            "AND 0 < ALL (warn_at) AND 100 > ALL (warn_at)",
            name="warn_at",
        ),
        CheckConstraint("\"then\" IN ('stop', 'slow', 'batch', 'warn')", name="then"),
        Index("ix_budgets_scope_scope_value", "scope", "scope_value"),
        {"schema": "llm"},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    name: Mapped[str] = mapped_column(String(100))
    scope: Mapped[str] = mapped_column(String(10))
    scope_value: Mapped[str | None] = mapped_column(String(255))
    window: Mapped[str] = mapped_column(String(10))
    zone: Mapped[str] = mapped_column(String(64), server_default=text("'UTC'"))
    usd: Mapped[Decimal | None] = mapped_column(Numeric)
    tokens: Mapped[int | None] = mapped_column(BigInteger)
    warn_at: Mapped[list[Decimal]] = mapped_column(ARRAY(Numeric), server_default=text("'{0.8}'"))
    then: Mapped[str] = mapped_column(String(10))
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class BudgetTotal(Base):
    """What one window of a budget has reserved and spent: the sum of its calls in the ledger, maintained with them.

    ``spent`` has orphaned calls at their estimates. ``warned_at`` is the highest share that was told. ``slow_minute``
    and ``slow_share`` are what the last minute of a spent budget that goes on slowly has admitted.
    """

    __tablename__ = "budget_totals"
    __table_args__ = {"schema": "llm"}

    budget_id: Mapped[UUID] = mapped_column(ForeignKey("llm.budgets.id", ondelete="CASCADE"), primary_key=True)
    window_start: Mapped[datetime] = mapped_column(primary_key=True)
    reserved_usd: Mapped[Decimal] = mapped_column(Numeric, server_default=text("0"))
    spent_usd: Mapped[Decimal] = mapped_column(Numeric, server_default=text("0"))
    reserved_tokens: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    spent_tokens: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    warned_at: Mapped[Decimal | None] = mapped_column(Numeric)
    slow_minute: Mapped[int | None] = mapped_column(BigInteger)
    slow_share: Mapped[Decimal] = mapped_column(Numeric, server_default=text("0"))


class BudgetWarning(Base):
    """A budget passed a threshold: once per window, with the share that was reserved or spent by then."""

    __tablename__ = "budget_warnings"
    __table_args__ = {"schema": "llm"}

    budget_id: Mapped[UUID] = mapped_column(ForeignKey("llm.budgets.id", ondelete="CASCADE"), primary_key=True)
    window_start: Mapped[datetime] = mapped_column(primary_key=True)
    threshold: Mapped[Decimal] = mapped_column(Numeric, primary_key=True)
    share: Mapped[Decimal] = mapped_column(Numeric)
    created_at: Mapped[datetime]
