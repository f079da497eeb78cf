"""The users of a project, in the tables of the seed."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    ForeignKey,
    Index,
    String,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base
from models.operations.columns import SCHEMA, USER_ROLES, created_column, enum_type, updated_column

# The user id of ratings by a language model; `llmModel` names the model.
LLM_USER = "00000000-0000-0000-0000-000000000000"


class AuthUser(Base):
    """A user who can sign in. If Supabase has its own ``auth.users``, that table is used and not changed."""

    __tablename__ = "users"
    __table_args__ = ({"schema": "auth", "comment": "made by gristmill"},)  # so that a downgrade drops only our table

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    email: Mapped[str] = mapped_column(String(255), unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class UserProfile(Base):
    """The role of a user. A trigger inserts one with the role PENDING for each new user."""

    __tablename__ = "profiles"
    __table_args__ = (Index("idx_profile_email", "email", unique=True), {"schema": SCHEMA})

    id: Mapped[UUID] = mapped_column(ForeignKey("auth.users.id", ondelete="CASCADE"), primary_key=True)
    email: Mapped[str] = mapped_column(String(255))
    role: Mapped[str] = mapped_column(enum_type("UserRole", USER_ROLES), server_default=text("'PENDING'"))
    must_reset_password: Mapped[bool] = mapped_column("mustResetPassword", server_default=text("false"))
    created_at: Mapped[datetime] = created_column()
    updated_at: Mapped[datetime] = updated_column()
