"""Messages that the Celery door refused."""

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Expiry


class DeadMessage(Base):
    """A message that the Celery door refused, with the reason. If it comes again, only ``count`` grows.

    ``body`` is the received body, cut at the largest size that the door accepts; ``size`` is its full length.
    ``arguments`` and ``keywords`` are its JSON, as far as it could be parsed. Messages that differ only in their ids
    have the same ``content``. ``job_id`` is the job that a replay enqueued. Services have no rights on this table.
    """

    __tablename__ = "dead_messages"
    __table_args__ = (
        UniqueConstraint("fingerprint", name="uq_dead_messages_fingerprint"),
        CheckConstraint("octet_length(fingerprint) = 32", name="fingerprint"),
        CheckConstraint("length(reason) BETWEEN 1 AND 2000", name="reason"),
        CheckConstraint("length(arguments) <= 8192 AND length(keywords) <= 8192", name="shown"),
        CheckConstraint("octet_length(body) <= 4194304 AND octet_length(body) <= size", name="body"),
        CheckConstraint("count >= 1", name="count"),
        {"schema": "runtime"},
    )
    __expiry__ = Expiry(column="last_received_at", after=timedelta(days=30))

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    reason: Mapped[str] = mapped_column(Text)
    task: Mapped[str | None] = mapped_column(String(255))
    message_id: Mapped[str | None] = mapped_column(String(255))
    queue: Mapped[str | None] = mapped_column(String(255))
    content_type: Mapped[str | None] = mapped_column(String(100))
    content_encoding: Mapped[str | None] = mapped_column(String(50))
    arguments: Mapped[str | None] = mapped_column(Text)
    keywords: Mapped[str | None] = mapped_column(Text)
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    content: Mapped[bytes | None] = mapped_column(
        LargeBinary, Computed("sha256(coalesce(body, ''))", persisted=True), deferred=True
    )
    size: Mapped[int] = mapped_column(BigInteger)
    count: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    replayed_at: Mapped[datetime | None]
    job_id: Mapped[UUID | None]
