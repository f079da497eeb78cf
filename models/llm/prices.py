"""What models cost by the operators' word."""

from datetime import datetime
from decimal import Decimal

from sqlalchemy import CheckConstraint, Numeric, String, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class ModelPrice(Base):
    """US dollars per million tokens of a model; model ``*`` is any of the provider that has no row of its own.

    Without a price of its own, cached input costs what other input does. ``batch_discount`` is the share of the price
    that the batch lane pays.
    """

    __tablename__ = "prices"
    __table_args__ = (
        CheckConstraint(r"provider ~ '\S' AND model ~ '\S'", name="names"),
        CheckConstraint(
            "input_per_million BETWEEN 0 AND 1000000 AND cached_input_per_million BETWEEN 0 AND 1000000 "
            "AND output_per_million BETWEEN 0 AND 1000000",
            name="amounts",
        ),
        CheckConstraint("batch_discount BETWEEN 0 AND 1", name="batch_discount"),
        {"schema": "llm"},
    )

    provider: Mapped[str] = mapped_column(String(255), primary_key=True)
    model: Mapped[str] = mapped_column(String(255), primary_key=True)
    input_per_million: Mapped[Decimal] = mapped_column(Numeric)
    cached_input_per_million: Mapped[Decimal | None] = mapped_column(Numeric)
    output_per_million: Mapped[Decimal] = mapped_column(Numeric)
    batch_discount: Mapped[Decimal] = mapped_column(Numeric, server_default=text("0.5"))
    updated_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
