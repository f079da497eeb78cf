"""The ledger: one row for every call of a provider."""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Double, Index, Integer, Numeric, String, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class Call(Base):
    """One call: for whom, of which model, what it used and cost. Partitioned by month of ``created_at``.

    ``reserved`` is under way; ``settled`` has a price, ``unpriced`` has none that is known; ``orphaned`` may be paid
    for, but nobody has its answer, so its estimate counts; ``cached`` was answered without a call and costs nothing;
    ``failed`` was refused and costs nothing. Prices are those of the moment of the call, per million tokens and with
    the discount of the lane. ``input_tokens`` has the cached ones too, ``output_tokens`` those of reasoning.
    Written by ``llm.admit`` and ``llm.settle_calls`` only, but for ``batch_id``.
    """

    __tablename__ = "calls"
    __table_args__ = (
        CheckConstraint("kind IN ('chat', 'embeddings')", name="kind"),
        CheckConstraint("lane IN ('normal', 'batch')", name="lane"),
        CheckConstraint(
            "state IN ('reserved', 'settled', 'unpriced', 'orphaned', 'cached', 'failed')",
            name="state",
        ),
        CheckConstraint(
            "least(estimated_input, max_output, input_tokens, cached_input_tokens, output_tokens, "
            "reasoning_tokens) >= 0",
            name="counts",
        ),
        CheckConstraint("least(usd, estimated_usd, input_price, cached_price, output_price) >= 0", name="money"),
        CheckConstraint("state <> 'settled' OR usd IS NOT NULL", name="priced"),
        CheckConstraint("length(failure) <= 2000 AND pg_column_size(usage) <= 65536", name="texts"),
        Index("ix_calls_created_at", "created_at", postgresql_using="brin"),
        Index("ix_calls_job_id", "job_id", postgresql_where=text("job_id IS NOT NULL")),
        Index("ix_calls_reserved", "worker_id", postgresql_where=text("state = 'reserved'")),
        {"schema": "llm", "postgresql_partition_by": "RANGE (created_at)"},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(primary_key=True, server_default=func.clock_timestamp())
    job_id: Mapped[UUID | None]
    version: Mapped[int | None] = mapped_column(Integer)
    attempt: Mapped[int | None] = mapped_column(Integer)
    stage: Mapped[str | None] = mapped_column(String(100))
    owner_id: Mapped[UUID | None]
    project_id: Mapped[UUID | None]
    profile_id: Mapped[UUID | None]
    worker_id: Mapped[UUID | None]
    route: Mapped[str] = mapped_column(String(255))
    step: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    provider: Mapped[str] = mapped_column(String(255))
    model: Mapped[str] = mapped_column(String(255))
    served_model: Mapped[str | None] = mapped_column(String(255))
    kind: Mapped[str] = mapped_column(String(10))
    lane: Mapped[str] = mapped_column(String(10), server_default=text("'normal'"))
    batch_id: Mapped[UUID | None]
    state: Mapped[str] = mapped_column(String(10))
    estimated_input: Mapped[int] = mapped_column(Integer)
    max_output: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    estimated_usd: Mapped[Decimal | None] = mapped_column(Numeric)
    input_tokens: Mapped[int | None] = mapped_column(Integer)
    cached_input_tokens: Mapped[int | None] = mapped_column(Integer)
    output_tokens: Mapped[int | None] = mapped_column(Integer)
    reasoning_tokens: Mapped[int | None] = mapped_column(Integer)
    usage: Mapped[dict[str, Any] | None]
    input_price: Mapped[Decimal | None] = mapped_column(Numeric)
    cached_price: Mapped[Decimal | None] = mapped_column(Numeric)
    output_price: Mapped[Decimal | None] = mapped_column(Numeric)
    usd: Mapped[Decimal | None] = mapped_column(Numeric)
    settled_at: Mapped[datetime | None]
    seconds: Mapped[float | None] = mapped_column(Double)
    failure: Mapped[str | None] = mapped_column(Text)
