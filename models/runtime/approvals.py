"""Links with which people decide the waits of jobs."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Integer, LargeBinary, String, Text, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import ARRAY, INET
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Expiry


class ApprovalToken(Base):
    """One link for one person to decide one wait, once, before it expires, with one of the states in ``decides``.

    ``version`` is the job's version in that wait: when the job has another version, the link cannot decide. Only the
    hash of the token is stored. ``question`` is what the person was shown. ``purpose`` distinguishes several links to
    one person; a new link for the same purpose replaces the earlier one. Only ``runtime.decide_by_token`` writes what
    was decided with the link, when, and from which address.
    """

    __tablename__ = "approval_tokens"
    __table_args__ = (
        UniqueConstraint("token_hash", name="uq_approval_tokens_token_hash"),
        UniqueConstraint("job_id", "table_name", "version", "recipient", "purpose", name="uq_approval_tokens_one"),
        CheckConstraint("octet_length(token_hash) = 32", name="token_hash"),
        CheckConstraint("version > 0", name="version"),
        CheckConstraint(r"recipient ~ '\S' AND purpose ~ '^[a-z_]+$'", name="names"),
        CheckConstraint("cardinality(decides) BETWEEN 1 AND 20", name="decides"),
        CheckConstraint(
            "jsonb_typeof(question) = 'object' AND octet_length(question::text) <= 262144", name="question"
        ),
        CheckConstraint("expires_at < '10000-01-01'", name="times"),
        CheckConstraint("(used_at IS NULL) = (decision IS NULL)", name="used"),
        CheckConstraint("length(note) <= 2000", name="note"),
        {"schema": "runtime"},
    )
    __expiry__ = Expiry(column="expires_at", after=timedelta(days=90))

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    token_hash: Mapped[bytes] = mapped_column(LargeBinary)
    table_name: Mapped[str] = mapped_column(
        ForeignKey(
            "runtime.lifecycles.table_name",
            name="fk_approval_tokens_table_name_lifecycles",
            ondelete="CASCADE",
        )
    )
    job_id: Mapped[UUID]
    version: Mapped[int] = mapped_column(Integer)
    recipient: Mapped[str] = mapped_column(String(255))
    purpose: Mapped[str] = mapped_column(String(40))
    decides: Mapped[list[str]] = mapped_column(ARRAY(Text))
    question: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    used_at: Mapped[datetime | None]
    decision: Mapped[str | None] = mapped_column(String(40))
    note: Mapped[str | None] = mapped_column(Text)
    ip_address: Mapped[str | None] = mapped_column(INET)
    user_agent: Mapped[str | None] = mapped_column(Text)
