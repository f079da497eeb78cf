"""Projects and the passages of their guidelines."""

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import (
    REAL,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Expiry
from models.operations.columns import SCHEMA, created_column, id_column, updated_column


class Project(Base):
    """A project with its records, guidelines and jobs. If it is deleted, all of them are deleted too.

    ``guidelines`` is a PDF in base64. A project without an owner belongs to the operators.
    """

    __tablename__ = "projects"
    __table_args__ = (Index("idx_project_owner", "ownerId"), {"schema": SCHEMA})

    id: Mapped[UUID] = id_column()
    name: Mapped[str] = mapped_column(String(255), unique=True)
    owner_id: Mapped[UUID | None] = mapped_column("ownerId", ForeignKey(f"{SCHEMA}.profiles.id", ondelete="CASCADE"))
    # Up to 67 MB, and only an analysis needs it: a query must name the column to load it.
    guidelines: Mapped[str | None] = mapped_column(Text, deferred=True, deferred_raiseload=True)
    guidelines_file_name: Mapped[str | None] = mapped_column("guidelinesFileName", String(255))
    last_task_analysis: Mapped[str | None] = mapped_column("lastTaskAnalysis", Text)
    last_feedback_analysis: Mapped[str | None] = mapped_column("lastFeedbackAnalysis", Text)
    created_at: Mapped[datetime] = created_column()
    updated_at: Mapped[datetime] = updated_column()


class GuidelinePassage(Base):
    """One passage of a guidelines document, number ``ordinal`` of ``of``. Each document is embedded once per model.

    The document has ``pages`` pages; ``empty_pages`` of them have no text. Both are null in older rows.
    """

    __tablename__ = "guideline_passages"
    __table_args__ = (
        Index("ix_guideline_passages_createdAt", "createdAt"),
        CheckConstraint('ordinal BETWEEN 1 AND "of"', name="ordinal"),
        CheckConstraint('"emptyPages" BETWEEN 0 AND pages', name="pages"),
        {"schema": SCHEMA},
    )
    __expiry__ = Expiry(column="createdAt", after=timedelta(days=90))

    document_hash: Mapped[bytes] = mapped_column("documentHash", LargeBinary, primary_key=True)
    embedding_model: Mapped[str] = mapped_column("embeddingModel", String(255), primary_key=True)
    ordinal: Mapped[int] = mapped_column(Integer, primary_key=True)
    of: Mapped[int] = mapped_column(Integer)
    page: Mapped[int] = mapped_column(Integer)
    pages: Mapped[int | None] = mapped_column(Integer)
    empty_pages: Mapped[int | None] = mapped_column("emptyPages", Integer)
    content: Mapped[str] = mapped_column(Text)
    embedding: Mapped[list[float]] = mapped_column(ARRAY(REAL))
    created_at: Mapped[datetime] = created_column()
