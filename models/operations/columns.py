"""What the tables of the schema ``operations`` share: its name, the enum types and the common columns."""

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import (
    ForeignKey,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ENUM
from sqlalchemy.orm import Mapped, mapped_column

SCHEMA = "operations"
USER_ROLES = ("PENDING", "USER", "MANAGER", "ADMIN")
RECORD_TYPES = ("TASK", "FEEDBACK")
RECORD_CATEGORIES = ("TOP_10", "BOTTOM_10")
RETENTION = timedelta(days=90)


def enum_type(name: str, values: tuple[str, ...]) -> ENUM:
    return ENUM(*values, name=name, schema=SCHEMA, create_type=False)


def created_column() -> Mapped[datetime]:
    return mapped_column("createdAt", server_default=func.now())


def updated_column() -> Mapped[datetime]:
    return mapped_column("updatedAt", server_default=func.now())


def id_column() -> Mapped[UUID]:
    """Return a primary key that sorts by time, like the CUID of the seed."""
    return mapped_column(primary_key=True, server_default=text("uuidv7()"))


def project_column() -> Mapped[UUID]:
    return mapped_column("projectId", ForeignKey(f"{SCHEMA}.projects.id", ondelete="CASCADE"))
