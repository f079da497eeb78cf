"""Paid answers that are kept, and the questions that runs ask now."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Double, Index, Integer, LargeBinary, String, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Expiry


class KeptAnswer(Base):
    """One paid, valid answer, under the id of its call.

    The later runs of ``job_id`` find it by ``fingerprint``, and so do other jobs of the same owner if their stage
    shares answers. ``raw`` is the body as the provider sent it, ``path`` what the route had tried before. Written by
    ``llm.keep_answers`` only, deleted with its job or after ``expires_at``.
    """

    __tablename__ = "answers"
    __table_args__ = (
        CheckConstraint("octet_length(fingerprint) = 32", name="fingerprint"),
        CheckConstraint(
            "jsonb_typeof(raw) = 'object' AND pg_column_size(raw) <= 4194304 "
            "AND jsonb_typeof(path) = 'array' AND pg_column_size(path) <= 65536",
            name="raw",
        ),
        CheckConstraint("least(input_tokens, output_tokens) >= 0 AND seconds >= 0", name="counts"),
        CheckConstraint(
            "created_at < expires_at AND expires_at < created_at + interval '400 days'",
            name="times",
        ),
        Index("ix_answers_fingerprint", "fingerprint"),
        Index("ix_answers_job_id", "job_id"),
        Index("ix_answers_expires_at", "expires_at"),
        {"schema": "llm"},
    )
    __expiry__ = Expiry(column="expires_at", after=timedelta())

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    owner_id: Mapped[UUID | None]
    job_id: Mapped[UUID]
    job_version: Mapped[int] = mapped_column(Integer)
    raw: Mapped[dict[str, Any]]
    path: Mapped[list[Any]] = mapped_column(JSONB, server_default=text("'[]'"))
    model: Mapped[str] = mapped_column(String(255))
    input_tokens: Mapped[int | None] = mapped_column(Integer)
    output_tokens: Mapped[int | None] = mapped_column(Integer)
    seconds: Mapped[float] = mapped_column(Double, server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    expires_at: Mapped[datetime]


class Flight(Base):
    """A question that may be shared and that the run of a job asks now. Identical questions wait for its answer.

    It holds as long as ``job_id`` is at ``job_version``: the end of the run, whatever it is, frees the question.
    """

    __tablename__ = "flights"
    __table_args__ = (
        CheckConstraint("octet_length(fingerprint) = 32", name="fingerprint"),
        Index("ix_flights_taken_at", "taken_at"),
        {"schema": "llm"},
    )
    __expiry__ = Expiry(column="taken_at", after=timedelta(days=1))

    fingerprint: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    job_id: Mapped[UUID]
    job_version: Mapped[int] = mapped_column(Integer)
    taken_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
