"""The keys by which clients of the gateway say who they are."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, LargeBinary, String, Text, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base

SCOPES = (
    "jobs:read, jobs:write, scoring, scoring:read, operations, operations:read, assessments, assessments:read, "
    "callbacks, callbacks:read, operate, operate:read, admin"
)


class ApiKey(Base):
    """One key. Only its hash is stored; ``hint`` is how the key begins.

    A key never changes: operators make it and revoke it, and the row says who did it and when. Rows stay. A key with
    ``acts_for`` acts for that user of ``auth.users`` and is valid while the user exists. There is no foreign key,
    because the record of the key must outlive the user. ``last_used_at`` is right to a few minutes.
    """

    __tablename__ = "api_keys"
    __table_args__ = (
        UniqueConstraint("key_hash", name="uq_api_keys_key_hash"),
        Index("uq_api_keys_name", "name", unique=True, postgresql_where=text("revoked_at IS NULL")),
        CheckConstraint("octet_length(key_hash) = 32", name="key_hash"),
        CheckConstraint(r"name ~ '^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$'", name="name"),
        CheckConstraint(r"hint ~ '^gm_[0-9A-Za-z]{4}$'", name="hint"),
        CheckConstraint(
            "cardinality(scopes) BETWEEN 1 AND 50 AND array_position(scopes, NULL) IS NULL AND "
            f"scopes <@ string_to_array('{SCOPES}', ', ')",
            name="scopes",
        ),
        CheckConstraint("(acts_for IS NULL) = (scopes && ARRAY['operate', 'operate:read', 'admin'])", name="acts_for"),
        CheckConstraint(
            " AND ".join(
                f"isfinite({name}) AND {name} < '10000-01-01'"
                for name in ("created_at", "expires_at", "last_used_at", "revoked_at")
            ),
            name="times",
        ),
        CheckConstraint(
            "(revoked_at IS NULL) = (revoked_by IS NULL) AND (revoke_reason IS NULL OR revoked_at IS NOT NULL)",
            name="revoked",
        ),
        CheckConstraint("length(revoke_reason) <= 2000", name="reason"),
        {"schema": "runtime"},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    name: Mapped[str] = mapped_column(String(63))
    key_hash: Mapped[bytes] = mapped_column(LargeBinary)
    hint: Mapped[str] = mapped_column(String(7))
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    acts_for: Mapped[UUID | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    created_by: Mapped[str] = mapped_column(String(255))
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    revoked_by: Mapped[str | None] = mapped_column(String(255))
    revoke_reason: Mapped[str | None] = mapped_column(Text)
