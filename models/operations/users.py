"""The people of a project, as the seed keeps them."""

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

# Whose ratings are a model's: `llmModel` says which.
LLM_USER = "00000000-0000-0000-0000-000000000000"


class AuthUser(Base):
    """Who can sign in. Where Supabase keeps its own ``auth.users``, that one is used and left as it is."""

    __tablename__ = "users"
    __table_args__ = ({"schema": "auth", "comment": "made by gristmill"},)  # so that a downgrade knows its own

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    email: Mapped[str] = mapped_column(String(255), unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class UserProfile(Base):
    """What a user may do here. A trigger makes one, PENDING, for each new user."""

    __tablename__ = "profiles"
    __table_args__ = (Index("idx_profile_email", "email", unique=True), {"schema": SCHEMA})

    id: Mapped[UUID] = mapped_column(ForeignKey("auth.users.id", ondelete="CASCADE"), primary_key=True)
    email: Mapped[str] = mapped_column(String(255))
    role: Mapped[str] = mapped_column(enum_type("UserRole", USER_ROLES), server_default=text("'PENDING'"))
    must_reset_password: Mapped[bool] = mapped_column("mustResetPassword", server_default=text("false"))
    created_at: Mapped[datetime] = created_column()
    updated_at: Mapped[datetime] = updated_column()
