"""Strict mode: the keys that sign users, and the logins that act for one user."""

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
    """One row, or none: whether a service must sign whom it speaks for. Only the tables' owner writes it."""

    __tablename__ = "security"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"), {"schema": "runtime"})

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    strict: Mapped[bool]
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now())
    changed_by: Mapped[str] = mapped_column(String(255))


class ActorKey(Base):
    """A key by which users' signatures are verified, as its two pads of HMAC. No role but the owner reads it."""

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
    """A login role that is one user, whatever it says of itself."""

    __tablename__ = "role_actors"
    __table_args__ = {"schema": "runtime"}

    role_name: Mapped[str] = mapped_column(String(63), primary_key=True)
    user_id: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Retention(Base):
    """One row, or none: how long history is kept at least, as ``gristmill migrate`` was told.

    Only the tables' owner writes it.
    """

    __tablename__ = "retention"
    __table_args__ = (
        CheckConstraint("id = 1", name="one_row"),
        CheckConstraint("transitions_days BETWEEN 31 AND 365000", name="transitions_days"),
        {"schema": "runtime"},
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False, server_default=text("1"))
    transitions_days: Mapped[int] = mapped_column(Integer)
