"""What the dispatcher keeps back, and why."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Identity, Integer, String, Text, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class Gate(Base):
    """The jobs of a stage, or those with one value of its gate column, that the leading dispatcher keeps back.

    ``key`` is that value; a row without a key is about all other jobs of the stage. ``free`` is how many more jobs may
    go out now. The leader writes the rows when something has changed. They are only told, nothing is decided by them.
    """

    __tablename__ = "gates"
    __table_args__ = (
        UniqueConstraint("stage", "key", name="uq_gates_stage_key", postgresql_nulls_not_distinct=True),
        CheckConstraint("octet_length(key) <= 1024", name="key"),
        CheckConstraint("free >= 0", name="free"),
        CheckConstraint("isfinite(until) AND until < '10000-01-01'", name="until"),
        CheckConstraint("octet_length(reason) <= 8192", name="reason"),
        CheckConstraint("isfinite(since) AND since < '10000-01-01'", name="since"),
        {"schema": "runtime"},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    stage: Mapped[str] = mapped_column(String(100))
    key: Mapped[str | None] = mapped_column(Text)
    free: Mapped[int] = mapped_column(Integer)
    until: Mapped[datetime | None]
    reason: Mapped[str] = mapped_column(Text)
    since: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
