"""The stages, their limits, and who paused them."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ForeignKey,
    Integer,
    String,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class StageState(Base):
    """One stage: its states, whether an operator paused it, and the limit that its handler declares.

    ``sql_door`` describes the payload of a stage that SQL may enqueue.
    """

    __tablename__ = "stages"
    __table_args__ = {"schema": "runtime"}

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    table_name: Mapped[str] = mapped_column(ForeignKey("runtime.lifecycles.table_name", ondelete="CASCADE"))
    ready: Mapped[str] = mapped_column(String(40))
    running: Mapped[str] = mapped_column(String(40))
    done: Mapped[str] = mapped_column(String(40))
    limit_at_most: Mapped[int | None] = mapped_column(Integer)
    paused_at: Mapped[datetime | None]
    paused_by: Mapped[str | None] = mapped_column(String(255))
    sql_door: Mapped[dict[str, Any] | None]
