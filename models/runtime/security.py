"""Strict mode, the keys that sign users, the logins that act for one user, and the retention of history."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    Integer,
    String,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class Security(Base):
    """One row or none: whether a service must sign the user that it acts for. Only the table's owner writes it."""

    __tablename__ = "security"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"), {"schema": "runtime"})

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    strict: Mapped[bool]
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now())
    changed_by: Mapped[str] = mapped_column(String(255))


class ActorKey(Base):
    """A key that verifies the signatures of users, as the two pads of HMAC. Only the owner of the table reads it."""

    __tablename__ = "actor_keys"
    __table_args__ = (
        CheckConstraint("length(inner_pad) = 64 AND length(outer_pad) = 64", name="pads"),
        {"schema": "runtime"},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    inner_pad: Mapped[bytes]
    outer_pad: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]


class RoleActor(Base):
    """A login role that always acts for one user, whatever actor it sets."""

    __tablename__ = "role_actors"
    __table_args__ = {"schema": "runtime"}

    role_name: Mapped[str] = mapped_column(String(63), primary_key=True)
    user_id: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Retention(Base):
    """One row or none: how long history is kept at least, as passed to ``gristmill migrate``.

    Only the owner of the tables writes it.
    """

    __tablename__ = "retention"
    __table_args__ = (
        CheckConstraint("id = 1", name="one_row"),
        CheckConstraint("transitions_days BETWEEN 31 AND 365000", name="transitions_days"),
        {"schema": "runtime"},
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False, server_default=text("1"))
    transitions_days: Mapped[int] = mapped_column(Integer)
