"""What the metrics read beside the counts of jobs: actions ever taken, and what all processes measured."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, String, Text, func, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class ActionCount(Base):
    """How many jobs of a stage an action has moved, ever. The leading dispatcher adds to it when it folds counts."""

    __tablename__ = "action_counts"
    __table_args__ = (CheckConstraint("jobs >= 0", name="jobs"), {"schema": "runtime"})

    stage: Mapped[str] = mapped_column(String(100), primary_key=True)
    action: Mapped[str] = mapped_column(String(20), primary_key=True)
    jobs: Mapped[int] = mapped_column(BigInteger)


class Measurement(Base):
    """One counter or histogram of all processes together, ever; each process adds what it measured since it last did.

    ``labels`` is a JSON object with sorted names. ``number`` is how many were counted, ``total`` the sum of their
    values (seconds), ``buckets`` how many of them were in each bucket (not cumulative); empty for a counter.
    """

    __tablename__ = "measurements"
    __table_args__ = (
        CheckConstraint("name ~ '^[a-z][a-z_]*$'", name="name"),
        CheckConstraint("octet_length(labels) <= 500", name="labels"),
        CheckConstraint("number >= 0", name="number"),
        CheckConstraint("total >= 0 AND total < 'Infinity'", name="total"),
        CheckConstraint("cardinality(buckets) <= 40", name="buckets"),
        CheckConstraint("updated_at BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-31 00:00:00+00'", name="times"),
        {"schema": "runtime"},
    )

    name: Mapped[str] = mapped_column(String(60), primary_key=True)
    labels: Mapped[str] = mapped_column(Text, primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
    total: Mapped[float]
    buckets: Mapped[list[int]] = mapped_column(ARRAY(BigInteger), server_default=text("'{}'"))
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
