"""How many jobs each stage has in each state, now and minute by minute, without a scan of job tables."""

from datetime import datetime, timedelta

from sqlalchemy import BigInteger, CheckConstraint, Identity, Integer, String, func
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Expiry

_SANE = "BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-31 00:00:00+00'"


class CountDelta(Base):
    """What one statement changed: ``jobs`` of one stage went from one state to another by one action.

    ``stage`` is where they were, or the first stage of new jobs; ``new_stage`` is where they are. ``old_state`` is null
    for new jobs, ``new_state`` for deleted ones. Guards append the rows; the leading dispatcher folds them.
    """

    __tablename__ = "count_deltas"
    __table_args__ = (
        CheckConstraint(f"moved_at {_SANE}", name="times"),
        CheckConstraint(
            "num_nonnulls(old_state, new_state) > 0 AND (new_stage IS NULL) = (new_state IS NULL)", name="states"
        ),
        {"schema": "runtime"},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True, cache=32), primary_key=True)
    stage: Mapped[str] = mapped_column(String(100))
    old_state: Mapped[str | None] = mapped_column(String(40))
    new_stage: Mapped[str | None] = mapped_column(String(100))
    new_state: Mapped[str | None] = mapped_column(String(40))
    action: Mapped[str] = mapped_column(String(20))
    jobs: Mapped[int] = mapped_column(Integer)
    moved_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class StageCount(Base):
    """The folded number of jobs of one stage in one state. The view ``runtime.counts`` adds what is not yet folded."""

    __tablename__ = "stage_counts"
    __table_args__ = {"schema": "runtime"}

    stage: Mapped[str] = mapped_column(String(100), primary_key=True)
    state: Mapped[str] = mapped_column(String(40), primary_key=True)
    jobs: Mapped[int] = mapped_column(BigInteger)


class MinuteCount(Base):
    """How many jobs of one stage went from one state to another in one minute, by one action.

    ``old_state`` is empty for new jobs, ``new_state`` for deleted ones.
    """

    __tablename__ = "minute_counts"
    __table_args__ = (
        CheckConstraint("minute BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 00:00:00+00'", name="times"),
        {"schema": "runtime"},
    )
    __expiry__ = Expiry(column="minute", after=timedelta(days=8))

    minute: Mapped[datetime] = mapped_column(primary_key=True)
    stage: Mapped[str] = mapped_column(String(100), primary_key=True)
    old_state: Mapped[str] = mapped_column(String(40), primary_key=True)
    new_state: Mapped[str] = mapped_column(String(40), primary_key=True)
    action: Mapped[str] = mapped_column(String(20), primary_key=True)
    jobs: Mapped[int] = mapped_column(BigInteger)
