"""Three job tables: plain, limited per key, and one whose lifecycle has two steps."""

from datetime import timedelta
from typing import Any, ClassVar

from sqlalchemy import Float, Integer, String, text
from sqlalchemy.orm import Mapped, mapped_column

from models.lifecycle import Job, Lifecycle, Step, ended_in, kernel_indexes

SCHEMA = "proving"
LIMIT = 3


class ProvingJob(Job):
    """What every proving table carries: an act, how long it takes, and room for a result."""

    __abstract__ = True

    act: Mapped[str] = mapped_column(String(20), server_default=text("'complete'"))
    seconds: Mapped[float] = mapped_column(Float, server_default=text("0"))
    key: Mapped[str] = mapped_column(String(50), server_default=text("''"))
    result: Mapped[dict[str, Any] | None]
    effects: Mapped[int] = mapped_column(Integer, server_default=text("0"))


class PlainJob(ProvingJob):
    __tablename__ = "plain_jobs"
    __lifecycle__: ClassVar[Lifecycle] = Lifecycle(
        steps=(Step("proving.plain", "pending", "processing", "completed"),), retention=timedelta(days=1)
    )
    __table_args__ = (*kernel_indexes("plain_jobs"), {"schema": SCHEMA})


class KeyedJob(ProvingJob):
    __tablename__ = "keyed_jobs"
    __lifecycle__: ClassVar[Lifecycle] = Lifecycle(
        steps=(Step("proving.keyed", "pending", "processing", "completed"),), retention=timedelta(days=1)
    )
    __table_args__ = (*kernel_indexes("keyed_jobs", limit_column="key"), {"schema": SCHEMA})


class TwoStepJob(ProvingJob):
    __tablename__ = "two_step_jobs"
    __lifecycle__: ClassVar[Lifecycle] = Lifecycle(
        steps=(
            Step("proving.first", "pending", "processing", "halfway"),
            Step("proving.second", "halfway", "finishing", "completed"),
        ),
        retention=timedelta(days=1),
    )
    __table_args__ = (*kernel_indexes("two_step_jobs"), {"schema": SCHEMA})

    ended_in: Mapped[str | None] = ended_in()
