"""The batch lane: which jobs may wait for a half-price answer, their questions, and the batches that carry them."""

from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Expiry
from models.lifecycle import Job, Lifecycle, Step, Wait, ended_in, kernel_indexes, wait_until

# Providers keep a batch for a day at most, and its results for longer: nothing is booked after this.
KEPT = timedelta(days=3)

BATCH = Lifecycle(
    steps=(
        Step("llm.batch", ready="pending", running="submitting", done="at_provider"),
        Step("llm.collect", ready="due", running="collecting", done="completed"),
    ),
    waits=(Wait(state="at_provider", waits_for="the provider's batch", decides=("due",), expires="due"),),
    also=frozenset({("submitting", "completed"), ("collecting", "at_provider")}),
    retention=timedelta(days=30),
)


class Batch(Job):
    """One batch of a provider: it gathers questions of one model, sends them, and takes the answers.

    ``creating_since`` is set before the provider is asked to create the batch, so that a run after a crash looks for it
    first. ``counts`` are the provider's, ``usage`` the tokens that it says the batch used. A job with ``cancels`` ends
    the batch of another job, which was cancelled or failed.
    """

    __tablename__ = "batches"
    __lifecycle__: ClassVar[Lifecycle] = BATCH
    __table_args__ = (
        *kernel_indexes("batches", wait_column="wait_until"),
        Index("ix_batches_provider", "provider", "model", "status"),
        CheckConstraint(r"provider ~ '\S' AND model ~ '\S'", name="names"),
        CheckConstraint(
            "length(input_file_id) <= 500 AND length(provider_batch_id) <= 500 "
            "AND pg_column_size(counts) <= 65536 AND pg_column_size(usage) <= 65536",
            name="texts",
        ),
        {"schema": "llm"},
    )

    status: Mapped[str] = mapped_column(String(40), server_default=text("'pending'"))
    provider: Mapped[str] = mapped_column(String(255))
    model: Mapped[str] = mapped_column(String(255))
    cancels: Mapped[UUID | None]
    input_file_id: Mapped[str | None] = mapped_column(Text)
    creating_since: Mapped[datetime | None]
    provider_batch_id: Mapped[str | None] = mapped_column(Text)
    provider_status: Mapped[str | None] = mapped_column(String(40))
    counts: Mapped[dict[str, Any] | None]
    usage: Mapped[dict[str, Any] | None]
    submitted_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]
    ended_in: Mapped[str | None] = ended_in()
    wait_until: Mapped[datetime | None] = wait_until()


class Lane(Base):
    """The lane of a job that was enqueued with one. From ``take_over_at`` on, the normal lane answers its questions."""

    __tablename__ = "lanes"
    __table_args__ = (
        CheckConstraint("lane IN ('normal', 'batch')", name="lane"),
        CheckConstraint(
            "created_at <= take_over_at AND take_over_at <= within_until "
            "AND within_until BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-31 00:00:00+00' "
            "AND created_at >= '0001-01-02 00:00:00+00'",
            name="times",
        ),
        Index("ix_lanes_within_until", "within_until"),
        {"schema": "llm"},
    )
    __expiry__ = Expiry(column="within_until", after=KEPT)

    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    stage: Mapped[str] = mapped_column(String(100))
    lane: Mapped[str] = mapped_column(String(10))
    within_until: Mapped[datetime]
    take_over_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class BatchRequest(Base):
    """One question of a job in the batch lane, the line of its batch, and its answer.

    ``waiting`` for a batch, ``sent`` with one, ``answered``, ``failed`` (the normal lane asks) or ``released``: nobody
    waits for it any more. ``key`` tells the question from others of its job. ``version`` is that of the run which waits
    for the answer, ``call_id`` the ledger's row of the line, ``is_booked`` whether that row is settled.
    """

    __tablename__ = "batch_requests"
    __table_args__ = (
        UniqueConstraint("job_id", "key"),
        UniqueConstraint("batch_id", "custom_id"),
        CheckConstraint("state IN ('waiting', 'sent', 'answered', 'failed', 'released')", name="state"),
        CheckConstraint("(state = 'answered') = (answer IS NOT NULL)", name="answered"),
        CheckConstraint(
            "state <> 'sent' OR (batch_id IS NOT NULL AND call_id IS NOT NULL AND body IS NOT NULL)", name="sent"
        ),
        CheckConstraint("least(version, input_tokens, output_tokens, body_bytes, tries) >= 0", name="counts"),
        CheckConstraint(
            "length(key) <= 64 AND octet_length(body) <= 8388608 AND octet_length(answer) <= 8388608 "
            "AND length(failure) <= 2000",
            name="sizes",
        ),
        CheckConstraint(
            "take_over_at <= within_until "
            "AND within_until BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-31 00:00:00+00' "
            "AND take_over_at >= '0001-01-02 00:00:00+00'",
            name="times",
        ),
        Index(
            "ix_batch_requests_waiting",
            "provider",
            "model",
            "within_until",
            "id",
            postgresql_where=text("state = 'waiting' AND batch_id IS NULL"),
        ),
        Index("ix_batch_requests_within_until", "within_until"),
        {"schema": "llm"},
    )
    __expiry__ = Expiry(column="within_until", after=KEPT)

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    job_id: Mapped[UUID]
    stage: Mapped[str] = mapped_column(String(100))
    version: Mapped[int] = mapped_column(Integer)
    attempt: Mapped[int | None] = mapped_column(Integer)
    owner_id: Mapped[UUID | None]
    project_id: Mapped[UUID | None]
    profile_id: Mapped[UUID | None]
    key: Mapped[bytes] = mapped_column(LargeBinary)
    custom_id: Mapped[str] = mapped_column(String(64))
    provider: Mapped[str] = mapped_column(String(255))
    model: Mapped[str] = mapped_column(String(255))
    route: Mapped[str] = mapped_column(String(255))
    step: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    input_tokens: Mapped[int] = mapped_column(Integer)
    output_tokens: Mapped[int] = mapped_column(Integer)
    body: Mapped[str | None] = mapped_column(Text)
    body_bytes: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(10), server_default=text("'waiting'"))
    batch_id: Mapped[UUID | None]
    call_id: Mapped[UUID | None]
    is_booked: Mapped[bool] = mapped_column(server_default=text("false"))
    tries: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    answer: Mapped[str | None] = mapped_column(Text)
    failure: Mapped[str | None] = mapped_column(Text)
    take_over_at: Mapped[datetime]
    within_until: Mapped[datetime]
    answered_at: Mapped[datetime | None]
    woken_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class BatchAllowance(Base):
    """How many input tokens of a model (all models: '') may wait in batches of a provider at once.

    These are the provider's own limits of its batch queue. The limits per minute of the normal lane do not apply.
    """

    __tablename__ = "batch_allowances"
    __table_args__ = (
        CheckConstraint("enqueued_tokens >= 0", name="enqueued_tokens"),
        {"schema": "llm"},
    )

    provider: Mapped[str] = mapped_column(String(255), primary_key=True)
    model: Mapped[str] = mapped_column(String(255), primary_key=True, server_default=text("''"))
    enqueued_tokens: Mapped[int] = mapped_column(BigInteger)
