"""Four job tables: plain, limited per key, one with two steps, and one with a wait between its steps."""

from datetime import datetime, timedelta
from typing import Any, ClassVar

from sqlalchemy import Float, Integer, String, text
from sqlalchemy.orm import Mapped, mapped_column

from models.lifecycle import End, Job, Lifecycle, Step, Wait, ended_in, kernel_indexes, wait_until

SCHEMA = "proving"
LIMIT = 3


class ProvingJob(Job):
    """The columns of every proving table: an act, its seconds, and a result."""

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


# A name of 40 characters, the longest that is allowed.
SECOND_OPINION = "awaiting_second_opinion_of_another_human"


class WaitingJob(ProvingJob):
    """The job asks, waits for an approval, and acts. A handler that acts may also wait for an agent."""

    __tablename__ = "waiting_jobs"
    __lifecycle__: ClassVar[Lifecycle] = Lifecycle(
        steps=(
            Step("proving.ask", "pending", "asking", "awaiting_approval"),
            Step("proving.act", "approved", "acting", "completed"),
        ),
        waits=(
            Wait(
                state="awaiting_approval",
                waits_for="an approval",
                decides=("approved", "rejected", "waived", SECOND_OPINION),
                expires="lapsed",
                lasts=timedelta(hours=1),
            ),
            Wait(
                state=SECOND_OPINION,
                waits_for="a second opinion",
                decides=("approved", "rejected"),
                expires="failed",
            ),
            Wait(
                state="awaiting_agent",
                waits_for="the agent",
                decides=("approved", "completed"),
                expires="failed",
                lasts=timedelta(minutes=10),
            ),
        ),
        ends=(End("rejected", "neutral"), End("lapsed", "bad"), End("waived", "good")),
        also=frozenset({("acting", "awaiting_agent"), ("asking", "waived")}),
        shown_as={"awaiting_approval": "in review", SECOND_OPINION: "in review"},
        retention=timedelta(days=1),
    )
    __table_args__ = (*kernel_indexes("waiting_jobs", wait_column="wait_until"), {"schema": SCHEMA})

    ended_in: Mapped[str | None] = ended_in()
    wait_until: Mapped[datetime | None] = wait_until()
