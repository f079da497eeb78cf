"""Which provider and model answers: routes, their steps, and for which stage or project each is taken."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base

SERVES = ("chat", "embeddings")


class Route(Base):
    """A fixed path for calls of one kind: its steps are tried in their order, each at most once."""

    __tablename__ = "routes"
    __table_args__ = (
        UniqueConstraint("name", "serves"),
        CheckConstraint("name ~ '^[A-Za-z0-9][A-Za-z0-9_.-]*$'", name="name"),
        CheckConstraint("serves IN ('chat', 'embeddings')", name="serves"),
        {"schema": "llm"},
    )

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    serves: Mapped[str] = mapped_column(String(10))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class RouteStep(Base):
    """One step of a route: the model of a provider, and how it is asked.

    ``max_tokens`` bounds an answer, ``context_tokens`` is what question and answer may have together. The prefixes
    stand before each text that is embedded, as some models want it.
    """

    __tablename__ = "route_steps"
    __table_args__ = (
        CheckConstraint("position BETWEEN 0 AND 9", name="position"),
        CheckConstraint("model ~ '^[A-Za-z0-9][A-Za-z0-9_.:/@+-]*$'", name="model"),
        CheckConstraint("max_tokens BETWEEN 1 AND 10000000 AND context_tokens BETWEEN 1 AND 100000000", name="tokens"),
        CheckConstraint("length(document_prefix) <= 150 AND length(query_prefix) <= 150", name="prefixes"),
        Index("ix_route_steps_provider", "provider"),
        {"schema": "llm"},
    )

    route: Mapped[str] = mapped_column(ForeignKey("llm.routes.name", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    provider: Mapped[str] = mapped_column(ForeignKey("llm.providers.name"))
    model: Mapped[str] = mapped_column(String(200))
    max_tokens: Mapped[int | None] = mapped_column(Integer)
    context_tokens: Mapped[int | None] = mapped_column(Integer)
    document_prefix: Mapped[str] = mapped_column(Text, server_default=text("''"))
    query_prefix: Mapped[str] = mapped_column(Text, server_default=text("''"))


class RouteBinding(Base):
    """The route that calls of a stage, of a project, of both or of all take. The most specific one counts."""

    __tablename__ = "route_bindings"
    __table_args__ = (
        UniqueConstraint("serves", "stage", "project_id", postgresql_nulls_not_distinct=True),
        ForeignKeyConstraint(["route", "serves"], ["llm.routes.name", "llm.routes.serves"]),
        CheckConstraint(r"stage ~ '\S'", name="stage"),
        Index("ix_route_bindings_route", "route"),
        {"schema": "llm"},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    serves: Mapped[str] = mapped_column(String(10))
    stage: Mapped[str | None] = mapped_column(String(100))
    project_id: Mapped[UUID | None]
    route: Mapped[str] = mapped_column(String(40))
